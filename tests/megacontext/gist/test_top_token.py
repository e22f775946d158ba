"""The top-token gist against sorting in plain Python."""

from __future__ import annotations

import pytest
import torch

from megacontext.arena import Page
from megacontext.gist.top_token import TopTokenGist

LAYERS, HEADS, ROWS, WIDTH = 2, 3, 6, 4


def page(seed: int = 0) -> Page:
    rng = torch.Generator().manual_seed(seed)
    return Page(*torch.randn(2, LAYERS, HEADS, ROWS, WIDTH, generator=rng))


def mass(seed: int = 0) -> torch.Tensor:
    return torch.rand(LAYERS, HEADS, ROWS, generator=torch.Generator().manual_seed(seed + 99))


@pytest.mark.parametrize("slots", [0, 1, 2, ROWS])
def test_each_head_keeps_the_keys_and_values_of_its_most_attended_tokens(slots):
    block, weights = page(), mass()
    gist = TopTokenGist().of_page(block, weights, slots)
    assert gist.keys.shape == gist.values.shape == (LAYERS, HEADS, slots, WIDTH)
    for layer in range(LAYERS):
        for head in range(HEADS):
            received = weights[layer, head].tolist()
            best = sorted(sorted(range(ROWS), key=received.__getitem__)[ROWS - slots :])
            assert torch.equal(gist.keys[layer, head], block.keys[layer, head, best])
            assert torch.equal(gist.values[layer, head], block.values[layer, head, best])
            assert gist.mass[layer, head].tolist() == [received[i] for i in best]


def test_a_parent_keeps_the_most_attended_of_its_childrens_in_time_order():
    maker = TopTokenGist()
    blocks, masses = [page(i) for i in range(4)], [mass(i) for i in range(4)]
    children = [maker.of_page(block, weights, 2) for block, weights in zip(blocks, masses, strict=True)]
    parent = maker.of_gists(children, 3)
    whole = Page(*(torch.cat([child[i] for child in children], 2) for i in range(2)))
    again = maker.of_page(whole, torch.cat([child.mass for child in children], 2), 3)
    assert all(torch.equal(left, right) for left, right in zip(parent, again, strict=True))
    top = torch.cat(masses, 2).max(2).values
    assert torch.equal(parent.mass.max(2).values, top), "the most attended token of all survives every level"


def test_bytes_are_those_of_its_tensors():
    gist = TopTokenGist().of_page(page(), mass(), 2)
    assert gist.nbytes == LAYERS * HEADS * 2 * (WIDTH + WIDTH + 1) * 4
