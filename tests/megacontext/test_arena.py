"""Arena against a dict: slot -> (key, value, position, visible)."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_toys import random_page, small_model

from megacontext.arena import Arena

SPEC = small_model().spec


def rotated(keys: torch.Tensor, position: int) -> torch.Tensor:
    """(L, Hk, d) keys of one slot, rotated to `position`."""
    angles = SPEC.rotation.at(torch.tensor([position]))
    return SPEC.rotation.rotate(keys[:, :, None], angles)[:, :, 0]


class Oracle:
    """The plainest arena."""

    def __init__(self, frames: int, gists: int) -> None:
        self.regions = [set(range(frames)), set(range(frames, frames + gists))]
        self.free = [set(region) for region in self.regions]
        self.contents: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.position: dict[int, int] = {}
        self.visible: set[int] = set()

    def first_run(self, count: int, gist: bool) -> range | None:
        for start in sorted(self.free[gist]):
            run = range(start, start + count)
            if set(run) <= self.free[gist]:
                return run
        return None


def check(arena: Arena, oracle: Oracle) -> None:
    assert arena.free_slots == sum(map(len, oracle.free))
    assert set(arena.visible.nonzero()[0].tolist()) == oracle.visible
    assert (arena.hidden == 0).tolist() == arena.visible.tolist()
    assert torch.isneginf(arena.hidden).tolist() == (~arena.visible).tolist()
    assert arena.reach == max(oracle.visible, default=-1) + 1
    for slot in oracle.visible:
        key, value = oracle.contents[slot]
        assert arena.position[slot] == oracle.position[slot]
        assert torch.equal(arena.raw[:, 0, :, slot], key)
        assert torch.equal(arena.values[:, 0, :, slot], value)
        torch.testing.assert_close(arena.keys[:, 0, :, slot], rotated(key, oracle.position[slot]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_random_operations_agree_with_a_dict(seed):
    rng = Random(seed)
    frames, gists = rng.choice((12, 20)), rng.choice((0, 7))
    arena, oracle, held = Arena(SPEC, frames, gists), Oracle(frames, gists), []
    for step in range(25):
        what = rng.choice(("allocate", "allocate", "put", "put", "release", "hide", "show", "renumber"))
        if what == "allocate":
            count, gist = rng.randint(1, 5), rng.random() < 0.3
            run = oracle.first_run(count, gist)
            if run is None:
                with pytest.raises(ValueError, match="no run"):
                    arena.allocate(count, gist=gist)
                continue
            assert arena.allocate(count, gist=gist) == run
            oracle.free[gist] -= set(run)
            held.append(run)
        elif what == "renumber" and held:
            order = rng.sample(held, len(held))
            slots = [slot for run in order for slot in run]
            assert arena.renumber(order) == len(slots)
            oracle.position.update({slot: at for at, slot in enumerate(slots)})
        elif held:
            run = rng.choice(held)
            if what == "put":
                page, first = random_page(SPEC, len(run), step), rng.randint(0, 90)
                arena.put(run, page.keys, page.values, first)
                for i, slot in enumerate(run):
                    oracle.contents[slot] = page.keys[:, :, i], page.values[:, :, i]
                    oracle.position[slot] = first + i
                oracle.visible |= set(run)
            elif what == "release":
                arena.release(run)
                held.remove(run)
                oracle.free[run.start >= frames] |= set(run)
                oracle.visible -= set(run)
            elif what == "hide":
                arena.hide(run)
                oracle.visible -= set(run)
            elif set(run) <= oracle.contents.keys() and set(run) <= oracle.position.keys():
                arena.rotate(run)
                arena.show(run)
                oracle.visible |= set(run)
        check(arena, oracle)


def test_renumbering_leaves_keys_as_if_they_had_been_put_there():
    moved, put = Arena(SPEC, 16), Arena(SPEC, 16)
    runs = [range(0, 4), range(4, 8), range(8, 12)]
    order = [runs[2], runs[0], runs[1]]
    for at, run in enumerate(runs):
        page = random_page(SPEC, 4, seed=at)
        moved.put(moved.allocate(4), page.keys, page.values, 100 * at)
        put.put(put.allocate(4), page.keys, page.values, 4 * order.index(run))
    assert moved.renumber(order) == 12
    assert moved.position.tolist() == put.position.tolist()
    assert torch.equal(moved.keys, put.keys)


def test_a_swap_touches_only_the_leavers_slots():
    arena = Arena(SPEC, 12)
    runs = [arena.allocate(4) for _ in range(3)]
    for at, run in enumerate(runs):
        arena.put(run, *random_page(SPEC, 4, seed=at), first_position=4 * at)
    before = arena.copy()
    arena.release(runs[1])
    newcomer = random_page(SPEC, 4, seed=9)
    assert arena.allocate(4) == runs[1]
    arena.put(runs[1], *newcomer, first_position=4)
    for name in ("raw", "keys", "values"):
        old, new = getattr(before, name), getattr(arena, name)
        same = (old == new).all(-1).all(2).all(1).all(0)
        assert same.tolist() == [True] * 4 + [False] * 4 + [True] * 4
    assert arena.position.tolist() == before.position.tolist()


def test_contents_are_what_was_put_and_do_not_follow_the_arena():
    arena = Arena(SPEC, 8)
    run = arena.allocate(4)
    page = random_page(SPEC, 4, seed=1)
    arena.put(run, *page, first_position=3)
    kept = arena.contents(run)
    assert torch.equal(kept.keys, page.keys)
    assert torch.equal(kept.values, page.values)
    arena.put(run, *random_page(SPEC, 4, seed=2), first_position=3)
    assert torch.equal(kept.keys, page.keys)
    assert kept.nbytes == 2 * page.keys.numel() * 4


def test_a_copy_goes_its_own_way():
    arena = Arena(SPEC, 8, 4)
    run = arena.allocate(4)
    arena.put(run, *random_page(SPEC, 4, seed=1), first_position=0)
    twin = arena.copy()
    twin.release(run)
    twin.put(twin.allocate(4), *random_page(SPEC, 4, seed=2), first_position=50)
    twin.allocate(2, gist=True)
    assert arena.position[:4].tolist() == [0, 1, 2, 3]
    assert arena.free_slots == 8
    assert torch.equal(arena.contents(run).keys, random_page(SPEC, 4, seed=1).keys)


def test_slots_cannot_be_freed_twice():
    arena = Arena(SPEC, 8)
    run = arena.allocate(4)
    arena.release(run)
    with pytest.raises(ValueError, match="free already"):
        arena.release(run)


def test_bytes_are_those_of_its_storage():
    arena = Arena(SPEC, 8, 4)
    tensors = (arena.raw, arena.keys, arena.values, arena.hidden)
    arrays = sum(a.nbytes for a in vars(arena).values() if isinstance(a, np.ndarray))
    assert arena.nbytes == sum(t.untyped_storage().nbytes() for t in tensors) + arrays
