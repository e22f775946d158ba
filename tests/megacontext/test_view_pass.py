"""ViewPass: what a pass of one row is shown beside what it sees. Attention against brute force is in test_cache.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from memory_toys import NoisyScorer, small_config
from torch import Tensor

from megacontext import view_pass
from megacontext.cache import ContextCache
from megacontext.testing.toy import cached_logits, toy_model, toy_tokens
from megacontext.view import View
from nanochat.hook import KVView


@pytest.mark.parametrize("closed", [True, False])
def test_spare_slots_of_single_rows_in_bf16_change_nothing(closed, monkeypatch):
    """Token by token over a view that swaps, with ranks closed (no mask) and with holes (a mask)."""
    model = toy_model("G4", window_pattern="L", sequence_len=512, n_layer=2, dtype=torch.bfloat16)
    config = small_config(budget=104, block=8, recent_tokens=8, read_chunk=8)
    if not closed:
        monkeypatch.setattr(View, "close_ranks", lambda view: None)
    views: list[KVView] = []

    def logits() -> Tensor:
        cache = ContextCache(model.spec, config, NoisyScorer(3))
        update = cache.update

        def watched(*parts: Any) -> KVView:
            views.append(update(*parts))
            return views[-1]

        monkeypatch.setattr(cache, "update", watched)
        return cached_logits(model, cache, toy_tokens(300))

    spared = logits()
    assert any(view.spare for view in views)
    assert any(view.bias is not None for view in views) != closed
    assert not any(view.spare for view in views if view.bias is not None)
    assert len({view.keys.shape[2] for view in views}) <= 3
    monkeypatch.setattr(view_pass, "with_spare", lambda slots, rows, storage: slots)
    torch.testing.assert_close(spared, logits(), atol=0.1, rtol=0)
