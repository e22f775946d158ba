"""What the papers of memories that look things up publish, in small: the demo model and real text.

Five pass keys by depth, each to be told from nine wrong ones; everybody reads as many slots.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from megacontext.config import MemoryConfig, ModelConfig
from megacontext.evaluation.caches import make_contender
from megacontext.evaluation.corpus import load_corpus
from megacontext.evaluation.episodes.outcome import Outcome
from megacontext.evaluation.episodes.run import run_episode
from megacontext.evaluation.tasks import make_task
from megacontext.evaluation.tasks.base import Library
from megacontext.models import load_model

ROOT = Path(__file__).parents[3]
MODEL, CORPUS = ROOT / ModelConfig().path, ROOT / "artifacts" / "corpus" / "sample.txt"
pytestmark = [
    pytest.mark.minutes,
    pytest.mark.needs_model,
    pytest.mark.skipif(not MODEL.exists(), reason=f"{MODEL.name} is absent; python tools/bootstrap_env.py brings it"),
]


@cache
def loaded():
    return load_model(ModelConfig(path=str(MODEL), dtype="float32", device="cpu"))


@cache
def passkeys(name: str, slots: int = 256, tokens: int = 1600) -> Outcome:
    model = loaded()
    memory = MemoryConfig(budget=slots, recent_tokens=64, far_blocks=2)
    contender = make_contender(name, model.model.spec, memory, text=model.text)
    steps = make_task("passkey", tokens=tokens).steps(Library(model.text, load_corpus(CORPUS).documents), 0)
    return run_episode(model.model, contender.cache, steps, stride=contender.stride)


def test_quest_finds_passkeys_that_h2o_lost_at_as_many_slots_read() -> None:
    quest, h2o = passkeys("quest[dense_layers=0]"), passkeys("h2o")
    assert max(quest.read_slots, h2o.read_slots) <= 256
    assert quest.right > h2o.right
    assert quest.mean_nll < h2o.mean_nll - 0.5


def test_infllm_finds_passkeys_beyond_its_window() -> None:
    out = passkeys("infllm[block=32,blocks=64]", 512, 2000)
    assert out.read_slots <= 512
    assert sum(out.groups[f"passkey depth {depth}%"][0] for depth in (10, 30, 50, 70)) >= 3
    assert out.mean_nll < 1.5


def test_bm25_answers_when_the_question_has_the_words_of_the_fact() -> None:
    out = passkeys("bm25_reread")
    assert out.right == 5
    assert out.mean_nll < 0.3


def test_a_summary_by_the_model_does_not_keep_the_passkeys() -> None:
    assert passkeys("recursive_summary", tokens=800).mean_nll > passkeys("bm25_reread").mean_nll + 1
