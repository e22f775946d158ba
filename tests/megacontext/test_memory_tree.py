"""MemoryTree: tokens as a list, pages and gists by their spans."""

from __future__ import annotations

import pytest
import torch
from memory_toys import random_page, small_model

from megacontext.gist.top_token import TopTokenGist
from megacontext.span import Grid
from megacontext.testing.storage import held_bytes
from megacontext.tree.memory_tree import MemoryTree

SPEC = small_model().spec
GRID = Grid(4, 3)


def mass(seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(len(SPEC.memory_layers), SPEC.kv_heads, GRID.block, generator=rng)


def grown(blocks: int, slots: tuple[int, ...] = (2, 1), tail: int = 3) -> MemoryTree:
    tree = MemoryTree(GRID, TopTokenGist(), slots)
    tree.append(range(blocks * GRID.block + tail))
    for number in range(blocks):
        tree.seal(random_page(SPEC, GRID.block, number))
    return tree


def test_tokens_are_a_list():
    tree = MemoryTree(GRID, TopTokenGist())
    tree.append([5, 6, 7])
    tree.append([8])
    assert (len(tree), tree.tokens(0, 4), tree.tokens(1, 3), tree.tokens(4, 9)) == (4, [5, 6, 7, 8], [6, 7], [])
    tree.truncate(2)
    tree.append([9])
    assert tree.tokens(0, 3) == [5, 6, 9]


def test_what_is_sealed_cannot_be_forgotten_and_what_is_not_there_cannot_be_sealed():
    tree = grown(2)
    tree.truncate(8)
    with pytest.raises(ValueError, match="sealed up to 8"):
        tree.truncate(7)
    with pytest.raises(ValueError, match="no 4 tokens to seal at 8 of 8"):
        tree.seal(random_page(SPEC, 4, 0))


def test_a_page_is_found_by_its_span():
    tree = grown(5)
    for number in range(5):
        assert torch.equal(tree.page(GRID.page(number)).keys, random_page(SPEC, 4, number).keys)
    with pytest.raises(ValueError, match="has no page"):
        tree.page(GRID.node(1, 0))
    with pytest.raises(IndexError):
        tree.page(GRID.page(5))


def test_a_page_that_was_computed_again_takes_the_place_of_the_old_one():
    tree = grown(3)
    tree.replace(GRID.page(1), random_page(SPEC, 4, 77))
    assert torch.equal(tree.page(GRID.page(1)).values, random_page(SPEC, 4, 77).values)
    with pytest.raises(IndexError):
        tree.replace(GRID.page(3), random_page(SPEC, 4, 77))


def test_a_gist_is_made_once_from_its_page_and_a_parents_from_its_childrens():
    tree, maker = grown(3), TopTokenGist()
    for number in range(3):
        tree.fold(number, mass(number))
        tree.fold(number, mass(number + 50))
    leaves = [maker.of_page(random_page(SPEC, 4, n), mass(n), 2) for n in range(3)]
    for number, expected in enumerate(leaves):
        assert torch.equal(tree.gist(GRID.node(1, number * 4)).keys, expected.keys)
    assert torch.equal(tree.gist(GRID.node(2, 0)).keys, maker.of_gists(leaves, 1).keys)


def test_a_block_that_was_never_folded_has_no_gist():
    tree = grown(3)
    tree.fold(0, mass(0))
    with pytest.raises(KeyError, match="never folded"):
        tree.gist(GRID.node(1, 4))
    with pytest.raises(KeyError, match="never folded"):
        tree.gist(GRID.node(2, 0))


def test_bytes_are_those_of_tokens_pages_and_gists():
    tree = grown(3)
    for number in range(3):
        tree.fold(number, mass(number))
    tree.gist(GRID.node(2, 0))
    tree.replace(GRID.page(1), random_page(SPEC, 4, 77))
    assert tree.nbytes == held_bytes(tree) + 4 * len(tree)


def test_a_copy_goes_its_own_way():
    tree = grown(2)
    tree.fold(0, mass(0))
    twin = tree.copy()
    twin.append([99, 98])
    twin.seal(random_page(SPEC, 4, 50))
    twin.fold(1, mass(1))
    twin.replace(GRID.page(0), random_page(SPEC, 4, 51))
    assert (len(tree), tree.sealed, len(twin), twin.sealed) == (11, 8, 13, 12)
    assert torch.equal(tree.page(GRID.page(0)).keys, random_page(SPEC, 4, 0).keys)
    assert tree.nbytes < twin.nbytes
    with pytest.raises(KeyError):
        tree.gist(GRID.node(1, 4))
