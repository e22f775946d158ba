from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megacontext.errors import ConfigError
from megacontext.evaluation.caches import make_contender
from megacontext.evaluation.episodes.reference import Reference
from megacontext.evaluation.episodes.run import run_episode
from megacontext.evaluation.episodes.steps import Ask, Continue, Read
from megacontext.testing.toy import full_logits, toy_model, toy_tokens
from nanochat.kv_cache import DenseCache

TEXT, MORE, REST = toy_tokens(150), toy_tokens(40, seed=2), toy_tokens(30, seed=3)
ASK = Ask([1, 2], [[3], [4]], 0, [])
STEPS = [Read(TEXT), Continue(MORE, kl=True), ASK, Continue([5, 6]), Continue(REST, kl=True)]


@pytest.fixture(scope="module")
def model():
    return toy_model(window_pattern="L", n_layer=2, sequence_len=512)


def brute_kl(p: torch.Tensor, q: torch.Tensor) -> list[float]:
    """Of two (T, V) logits, by the library."""
    p, q = (rows.float().log_softmax(-1) for rows in (p, q))
    return torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1).tolist()


def test_rows_are_the_predictions_of_a_full_forward(model, tmp_path: Path) -> None:
    rows = Reference(model, tmp_path / "new").rows(STEPS)
    logits = full_logits(model, [*TEXT, *MORE, 5, 6, *REST]).float().log_softmax(-1)
    start = len(TEXT) - 1
    wanted = torch.cat([logits[start : start + 40], logits[start + 42 : start + 72]])
    assert rows.dtype == torch.float16
    assert torch.allclose(rows.float(), wanted, atol=6e-3)


def test_an_episode_is_made_once_and_found_again(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Reference(model, tmp_path).rows(STEPS)
    monkeypatch.setattr(Reference, "_made", lambda self, steps: pytest.fail("made twice"))
    assert torch.equal(Reference(model, tmp_path).rows(list(STEPS)), first)
    assert len(list(tmp_path.iterdir())) == 1


def test_another_text_or_another_model_is_another_file(model, tmp_path: Path) -> None:
    steps = [Read(TEXT), Continue(MORE, kl=True)]
    for one, other in (
        (model, steps),
        (model, [Read(TEXT[1:]), steps[1]]),
        (toy_model(n_layer=1, sequence_len=512), steps),
    ):
        Reference(one, tmp_path).rows(other)
    assert len(list(tmp_path.iterdir())) == 3


def test_full_attention_is_no_distance_from_itself_and_a_window_is_some(model, tmp_path: Path) -> None:
    from megacontext.config import MemoryConfig

    memory = MemoryConfig(budget=96, block=8, recent_tokens=32, far_blocks=4, read_chunk=8, reread_tokens=16)
    reference = Reference(model, tmp_path)
    full = run_episode(model, DenseCache(model.spec), STEPS, stride=16, reference=reference)
    contender = make_contender("recency", model.spec, memory)
    window = run_episode(model, contender.cache, STEPS, stride=contender.stride, reference=reference)
    assert len(full.kl) == len(window.kl) == 70
    assert max(full.kl) < 1e-3
    assert (window.mean_kl or 0) > 5 * (full.mean_kl or 0)


def test_the_distance_is_the_librarys(model, tmp_path: Path) -> None:
    """A cache that forgets all before the scored text, by hand."""
    steps = [Read(TEXT), Continue(MORE, kl=True)]
    Reference(model, tmp_path).rows(steps)

    class Blind(Reference):
        def rows(self, steps):
            return Reference(model, tmp_path).rows([Read(TEXT), Continue(MORE, kl=True)])

    short = [Read(TEXT[-1:]), Continue(MORE, kl=True)]
    found = run_episode(model, DenseCache(model.spec), short, stride=7, reference=Blind(model, tmp_path)).kl
    p, q = full_logits(model, TEXT + MORE)[len(TEXT) - 1 : -1], full_logits(model, TEXT[-1:] + MORE)[:-1]
    assert found == pytest.approx(brute_kl(p, q), abs=5e-3)


def test_without_a_reference_no_distance_is_measured(model) -> None:
    out = run_episode(model, DenseCache(model.spec), STEPS, stride=16)
    assert out.kl == []
    assert out.mean_kl is None


def test_past_the_trained_length_the_way_out_is_named(model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trained on 512"):
        Reference(model, tmp_path).rows([Read(toy_tokens(500)), Continue(MORE, kl=True)])


def test_an_answer_that_stays_would_make_the_texts_differ(model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no question of the episode may stay"):
        Reference(model, tmp_path).rows([Read(TEXT), Ask([1], [[2], [3]], 0, [], stay=True), Continue(MORE, kl=True)])
