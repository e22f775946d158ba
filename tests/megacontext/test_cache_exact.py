"""`exact` mode: what the model says equals one pass without a memory over the tokens in view, as they stand."""

from __future__ import annotations

from random import Random

import pytest
import torch
from memory_toys import VOCAB, NoisyScorer, check_laws, small_config, small_llama, small_model

from megacontext.cache import ContextCache
from megacontext.testing.toy import full_logits, ids, run
from nanochat.hook import BaseModel


def text_in_view(cache: ContextCache) -> list[int]:
    """The tokens in view in the order of their positions, the newest last."""
    block, view, context = cache.config.block, cache.view, cache.context
    slots = {n * block + i: s for n, frame in view.pages.items() for i, s in enumerate(frame)}
    tail = [slot for run in view.tail_runs(0, context.tail) for slot in run]
    slots |= {context.sealed + i: slot for i, slot in enumerate(tail)}
    order = sorted(slots, key=lambda token: view.arena.position[slots[token]])
    assert order[-1] == context.history - 1
    return [cache.tree.tokens(token, token + 1)[0] for token in order]


class Checked:
    """Passes through a cache in `exact` mode, each compared with the oracle."""

    def __init__(self, model: BaseModel, cache: ContextCache) -> None:
        self.model, self.cache = model, cache

    def step(self, tokens: list[int]) -> None:
        logits = run(self.model, self.cache, ids(self.model, tokens))[0]
        expected = full_logits(self.model, text_in_view(self.cache))[-len(tokens) :]
        torch.testing.assert_close(logits, expected, atol=2e-4, rtol=0)
        self.cache.maintain(self.model)
        check_laws(self.cache)


MODELS = {"llama": small_llama, "G4": lambda: small_model("G4", window_pattern="L")}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_a_full_pass_over_the_tokens_in_view(name, seed):
    model, rng = MODELS[name](), Random(seed)
    settings = {
        "mode": "exact",
        "protect_first": seed % 2,
        "tick_tokens": rng.choice((1, 4)),
        "position_slack": 9 * seed,
    }
    settings |= {"prompt_near": bool(seed // 2)}
    cache = ContextCache(model.spec, small_config(**settings), NoisyScorer(seed))
    checked = Checked(model, cache)
    for _ in range(5):
        prompt = [rng.randrange(VOCAB) for _ in range(rng.choice((1, 2, 7, 30, 60)))]
        done = 0
        while done < len(prompt) - 1:
            rows = cache.room(min(rng.choice((1, 3, 50)), len(prompt) - 1 - done))
            checked.step(prompt[done : done + rows])
            done += rows
        cache.maintain(model, prompt=len(prompt))
        for token in [prompt[-1], *(rng.randrange(VOCAB) for _ in range(rng.choice((1, 12, 40))))]:
            checked.step([token])
