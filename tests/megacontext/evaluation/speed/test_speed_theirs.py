"""transformers beside ours: the same weights, the same logits, a history that stays."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "models"))

from llama_files import reference, tokens_of, write_folder

from megacontext.config import ModelConfig
from megacontext.errors import ConfigError, MissingAsset
from megacontext.evaluation.speed.theirs import Theirs, check, hand_over
from megacontext.models import load_model
from megacontext.models.base import LoadedModel
from megacontext.testing.toy import toy_model

TEXT = tokens_of(100)[0].tolist()


def loaded(path: Path, dtype: str = "auto", **changes: object) -> LoadedModel:
    write_folder(path, reference(**changes))
    return load_model(ModelConfig(path=str(path), dtype=dtype, device="cpu"))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_that_move_over_are_those_of_the_file(tmp_path: Path, dtype: str, tied: bool) -> None:
    model = loaded(tmp_path, dtype, tie_word_embeddings=tied).model
    moved, original = hand_over(model).state_dict(), reference(tie_word_embeddings=tied).state_dict()
    assert moved.keys() == original.keys()
    for name, weight in original.items():
        assert torch.equal(moved[name], weight.to(getattr(torch, dtype))), name


def test_both_give_the_same_logits(tmp_path: Path) -> None:
    model = loaded(tmp_path, "float32").model
    assert check(model, hand_over(model), TEXT) < 1e-6


def test_other_weights_are_noticed_before_anything_is_timed(tmp_path: Path) -> None:
    model = loaded(tmp_path, "float32").model
    theirs = hand_over(model)
    theirs.model.layers[0].mlp.up_proj.weight.data = theirs.model.layers[0].mlp.up_proj.weight * 1.1
    with pytest.raises(AssertionError, match="other logits"):
        check(model, theirs, TEXT)


def test_its_history_stays_as_it_was(tmp_path: Path) -> None:
    one = Theirs.of(loaded(tmp_path, "float32"), TEXT)
    one.read(TEXT[:60])
    keys = one.cache.layers[1].keys.clone()
    with one.going_on([]):
        assert [len(one.decode(4)), len(one.decode(4))] == [4, 4]
    assert one.first_token(TEXT[60:70]) > 0
    assert (one.tokens, one.cache.get_seq_length()) == (TEXT[:60], 60)
    torch.testing.assert_close(one.cache.layers[1].keys, keys)
    assert one.nbytes >= 2 * 2 * 60 * 2 * 16 * 4


def test_rounds_go_on_with_what_was_generated(tmp_path: Path) -> None:
    one = Theirs.of(loaded(tmp_path, "float32"), TEXT)
    one.read(TEXT[:20])
    with one.going_on([]):
        one.decode(3)
        first = list(one.tokens)
        one.decode(3)
        assert one.tokens[: len(first)] == first
        assert len(one.tokens) > len(first) > 20
        expected = one.model(torch.tensor([one.tokens])).logits[0, :-1].argmax(-1).tolist()
        assert one.tokens[20:] == expected[19:]


def test_filling_repeats_the_rows_that_are_there(tmp_path: Path) -> None:
    one = Theirs.of(loaded(tmp_path, "float32"), TEXT)
    one.read(TEXT[:20])
    one.fill(50)
    assert (one.length, one.cache.get_seq_length()) == (70, 70)
    assert torch.equal(one.cache.layers[0].values[:, :, 20:40], one.cache.layers[0].values[:, :, :20])


def test_a_family_that_it_is_not_compared_on_is_refused() -> None:
    with pytest.raises(ConfigError, match="Llama-family"):
        hand_over(toy_model())


def test_where_it_is_not_installed_the_message_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(tmp_path).model
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingAsset, match="pip install transformers"):
        hand_over(model)
