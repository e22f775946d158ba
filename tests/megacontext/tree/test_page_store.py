"""PageStore against a dict: wherever a page is, `get` gives what was put last."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.arena import Page
from megacontext.errors import StoreError
from megacontext.tree.page_codec import PageCodec, PageShape
from megacontext.tree.page_file import PageFile
from megacontext.tree.page_store import MOST_UNWRITTEN, PageStore

SHAPE = PageShape(2, 1, 32, 64)
CODEC = PageCodec(SHAPE, torch.float32)
SIZE = CODEC.nbytes


def page(seed: int) -> Page:
    return Page(*(torch.full(tuple(SHAPE), float(seed + part)) for part in (0, 0.5)))


def same(one: Page, other: Page) -> bool:
    return torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)


def on_disk(folder: Path, **options) -> PageStore:
    file = PageFile.open(folder / "pages.ctx", CODEC, fingerprint="m")
    return PageStore(**{"ram_bytes": 3 * SIZE, "file": file, **options})


STEP = st.tuples(st.sampled_from(["put", "put", "get", "prefetch", "flush", "reopen"]), st.integers(0, 9))


@settings(max_examples=30, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_a_store_is_a_dict_whose_memory_is_bounded(tmp_path_factory, steps):
    folder, oracle = tmp_path_factory.mktemp("store"), {}
    store = on_disk(folder)
    for at, (what, number) in enumerate(steps):
        if what == "put":
            oracle[number] = page(100 * at)
            store.put(number, oracle[number])
        elif what == "get" and number in oracle:
            assert same(store.get(number), oracle[number])
        elif what == "prefetch":
            store.prefetch([number, number + 1])
        elif what == "flush":
            store.flush()
            assert store.nbytes <= 3 * SIZE
        elif what == "reopen":
            store.close()
            store = on_disk(folder)
    for number in range(10):
        if number in oracle:
            assert same(store.get(number), oracle[number])
        else:
            with pytest.raises(KeyError, match=f"no page {number}"):
                store.get(number)
    store.close()


def test_the_page_unused_for_longest_leaves_memory_first(tmp_path):
    store = on_disk(tmp_path)
    for number in range(3):
        store.put(number, page(number))
    store.flush()
    store.get(0)
    store.put(3, page(3))
    store.flush()
    store.traffic()
    for number in (0, 2, 3):
        store.get(number)
    assert store.traffic().faults == 0
    store.get(1)
    traffic = store.traffic()
    assert traffic.faults == 1
    assert len(traffic.fault_ms) == 1
    assert traffic.fault_ms[0] > 0
    store.close()


def test_what_was_prefetched_is_no_fault(tmp_path):
    store = on_disk(tmp_path)
    for number in range(8):
        store.put(number, page(number))
    store.flush()
    store.traffic()
    store.prefetch([0, 1])
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not {0, 1} <= store._ram.keys():
        time.sleep(0.005)
    assert same(store.get(0), page(0))
    assert same(store.get(1), page(1))
    traffic = store.traffic()
    assert (traffic.faults, traffic.prefetched) == (0, 2)
    store.close()


def test_the_thread_computes_alone_and_leaves_the_others_theirs(tmp_path):
    """With helpers of its own for copies, a thread that works beside the model takes the model's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        store, found = on_disk(tmp_path), list[int]()
        store.put(0, page(0))
        store.afterwards(lambda: found.append(torch.get_num_threads()))
        store.flush()
        assert (found, torch.get_num_threads()) == ([1], 3)
        store.close()
    finally:
        torch.set_num_threads(before)


def test_a_page_that_is_nowhere_is_computed_and_then_kept(tmp_path):
    computed: list[int] = []

    def compute(number: int) -> Page:
        computed.append(number)
        return page(number)

    store = on_disk(tmp_path, recompute=compute)
    for number in range(6):
        store.put(number, page(number))
    store.close()
    with (tmp_path / "pages.ctx").open("r+b") as file:  # a torn page
        file.seek(PageFile.open(tmp_path / "pages.ctx", CODEC, fingerprint="m").frames.geometry.offset(2) + 40)
        file.write(b"torn")
    store = on_disk(tmp_path, recompute=compute)
    assert same(store.get(2), page(2))
    assert computed == [2]
    assert store.damaged == 1
    assert store.traffic().recomputed == 1
    store.close()
    store = on_disk(tmp_path)
    assert same(store.get(2), page(2))
    store.close()


def test_without_a_disk_pages_leave_memory_only_if_they_can_be_computed():
    kept, remade = PageStore(ram_bytes=2 * SIZE), PageStore(ram_bytes=2 * SIZE, recompute=page)
    for number in range(5):
        kept.put(number, page(number))
        remade.put(number, page(number))
    assert kept.nbytes == 5 * SIZE
    assert remade.nbytes == 2 * SIZE
    assert same(kept.get(0), page(0))
    assert same(remade.get(0), page(0))
    assert remade.traffic().recomputed == 1


@pytest.mark.skipif(not hasattr(__import__("os"), "posix_fallocate"), reason="needs a system that punches holes")
def test_the_disk_keeps_its_cap_and_the_oldest_unused_pages_leave_it(tmp_path):
    stride = PageFile.open(tmp_path / "pages.ctx", CODEC, fingerprint="m").frames.geometry.stride
    store = on_disk(tmp_path, disk_bytes=6 * stride, recompute=page)
    for number in range(12):
        store.put(number, page(number))
        store.flush()
        if number >= 1:
            store.get(1)
            store._read(1)  # used on disk
        assert store.disk <= 6 * stride
    there = [number for number in range(12) if store._file.frames.has(number)]
    assert 1 in there
    assert 11 in there
    assert 0 not in there
    assert all(same(store.get(number), page(number)) for number in range(12))
    store.close()


def test_a_put_waits_when_the_disk_cannot_keep_up(tmp_path, monkeypatch):
    store = on_disk(tmp_path)
    gate, write = threading.Event(), PageFile.write
    monkeypatch.setattr(PageFile, "write", lambda *of: (gate.wait(10), write(*of)))
    done = threading.Event()

    def fill() -> None:
        for number in range(MOST_UNWRITTEN + 5):
            store.put(number, page(number))
        done.set()

    threading.Thread(target=fill, daemon=True).start()
    assert not done.wait(0.3)
    assert len(store._unwritten) == MOST_UNWRITTEN + 1
    gate.set()
    assert done.wait(20)
    store.flush()
    assert store.nbytes <= 3 * SIZE
    store.close()


@pytest.mark.parametrize("recompute", [None, page])
def test_a_disk_that_fails_loses_nothing_and_is_told(tmp_path, monkeypatch, recompute):
    store = on_disk(tmp_path, recompute=recompute)
    store.put(0, page(0))
    store.flush()

    def full(*_: object) -> None:
        raise StoreError("pages.ctx: cannot be written (No space left on device)")

    monkeypatch.setattr(PageFile, "write", full)
    for number in range(1, 12):
        store.put(number, page(number))
    with pytest.raises(StoreError, match="No space left"):
        store.flush()
    assert "No space left" in str(store.failure)
    assert all(same(store.get(number), page(number)) for number in range(12))
    assert recompute is None or store.nbytes <= 3 * SIZE
    store.close()


def test_a_copy_reads_what_was_there_and_writes_nothing(tmp_path):
    store = on_disk(tmp_path)
    for number in range(8):
        store.put(number, page(number))
    store.flush()
    twin = store.copy()
    twin.put(8, page(80))
    store.put(8, page(8))
    store.flush()
    assert same(twin.get(8), page(80))
    assert same(store.get(8), page(8))
    assert all(same(twin.get(number), page(number)) for number in range(8))
    twin.close()
    assert same(store.get(0), page(0))
    store.close()


def test_closing_writes_what_is_left_and_ends_the_thread(tmp_path):
    store = on_disk(tmp_path)
    for number in range(20):
        store.put(number, page(number))
    store.close()
    store.close()
    assert not [t for t in threading.enumerate() if t is store._thread]
    again = on_disk(tmp_path)
    assert again.count == 20
    assert all(same(again.get(number), page(number)) for number in range(20))
    again.close()


def _unreadable(*_: object) -> None:
    raise StoreError("pages.ctx: cannot be read (Input/output error)")


def test_a_page_that_the_disk_cannot_give_is_computed_again_and_told(tmp_path, monkeypatch):
    store = on_disk(tmp_path, recompute=page)
    for number in range(8):
        store.put(number, page(number))
    store.flush()
    with monkeypatch.context() as patch:
        patch.setattr(PageFile, "read", _unreadable)
        assert same(store.get(0), page(0))
    assert "Input/output error" in str(store.failure)
    for number in range(8, 12):
        store.put(number, page(number))
    assert store.nbytes <= 3 * SIZE
    store.close()


def test_a_page_that_the_disk_cannot_give_and_nobody_can_compute_is_an_error(tmp_path, monkeypatch):
    store = on_disk(tmp_path)
    for number in range(8):
        store.put(number, page(number))
    store.flush()
    with monkeypatch.context() as patch:
        patch.setattr(PageFile, "read", _unreadable)
        with pytest.raises(StoreError, match="cannot be read"):
            store.get(0)
    assert same(store.get(0), page(0))
    store.close()


def test_pages_may_leave_memory_after_another_write_failed(tmp_path):
    store = on_disk(tmp_path, recompute=page)

    def full() -> None:
        raise StoreError("view.snap: cannot be written (No space left on device)")

    store.afterwards(full)
    with pytest.raises(StoreError, match="No space left"):
        store.flush()
    for number in range(9):
        store.put(number, page(number))
    assert store.nbytes <= 3 * SIZE
    assert same(store.get(0), page(0))
    store.close()


def test_a_disk_that_tells_nothing_of_its_pages_ends_no_thread(tmp_path, monkeypatch):
    """Looking for a page that may leave a limited disk is a read, too."""
    stride = PageFile.open(tmp_path / "pages.ctx", CODEC, fingerprint="m").frames.geometry.stride
    earlier = on_disk(tmp_path)
    for number in range(6):
        earlier.put(number, page(number))
    earlier.close()
    store = on_disk(tmp_path, disk_bytes=3 * stride, recompute=page)

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("megacontext.tree.frame_file._pread", fail)
    for number in range(6, 12):
        store.put(number, page(number))
    deadline = time.monotonic() + 10
    while store.failure is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "cannot be read" in str(store.failure)
    store.close()


def test_a_thread_that_ends_for_any_reason_leaves_nobody_waiting(tmp_path, monkeypatch):
    store = on_disk(tmp_path)

    def write(*_: object) -> None:
        raise TypeError("a fault of ours")

    monkeypatch.setattr(PageFile, "write", write)
    for number in range(MOST_UNWRITTEN + 5):
        store.put(number, page(number))
    with pytest.raises(StoreError, match=r"not written any more \(TypeError: a fault of ours\)"):
        store.flush()
    assert torch.equal(store.get(3).keys, page(3).keys)
    store.close()
