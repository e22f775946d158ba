"""Where pages are: in memory while they are used, on disk, and otherwise computed again from their tokens.

A page that is put is in memory at once and on disk a little later, by a thread of its own; one that is on disk may
leave memory when there are more bytes than `ram_bytes`, the one unused for longest first. Nothing here waits for a disk
but `get` of a page that is not in memory, and `put` when the disk cannot keep up.

    in memory, to be written   in `_ram` and `_unwritten`; never leaves memory
    in memory and on disk      in `_ram`; may leave
    on disk                    read by `get`, or ahead of it by `prefetch`
    nowhere                    `recompute` makes it from its tokens

Knows nothing of what is in view and of models.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import NamedTuple

import torch

from megacontext.arena import Page
from megacontext.errors import StoreError
from megacontext.tree.page_file import PageFile

MOST_UNWRITTEN = 64  # pages that may wait for the disk; then `put` waits


class PageTraffic(NamedTuple):
    """What happened since it was last asked. faults: pages not in memory when wanted, with the time that each took.

    lost: of those recomputed, what a disk that works should have had.
    """

    faults: int
    recomputed: int
    prefetched: int
    fault_ms: tuple[float, ...]
    lost: int = 0


class PageStore:
    """Pages by number. file: None keeps all in memory, but for what `recompute` can make again.

    ram_bytes: what pages may take in memory. disk_bytes: what the file may take, None for no limit; the page unused for
    longest leaves it first, once there is a `recompute`. recompute: makes a page of its tokens, called on the thread of
    `get`. made_of: the checksum of a page's tokens; a page of other ones in the file is none. failure: why nothing is
    written any more.
    """

    def __init__(
        self,
        *,
        ram_bytes: int | None = None,
        file: PageFile | None = None,
        disk_bytes: int | None = None,
        recompute: Callable[[int], Page] | None = None,
    ) -> None:
        self.ram_bytes, self.disk_bytes, self.recompute = ram_bytes, disk_bytes, recompute
        self.made_of: Callable[[int], int] | None = None
        self.failure: StoreError | None = None
        self.nbytes = 0
        self.count = 0 if file is None else file.frames.places
        self._file = file
        self._ram: OrderedDict[int, Page] = OrderedDict()
        self._unwritten: OrderedDict[int, None] = OrderedDict()
        self._wanted: deque[int] = deque()
        self._after: list[tuple[set[int], Callable[[], None]]] = []
        self._change = threading.Condition()
        self._io = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._disk_use: OrderedDict[int, None] = OrderedDict()  # pages used since opening, oldest first
        self._oldest = 0  # pages below were looked at as victims
        self._traffic: list[float] = []
        self._recomputed = self._prefetched = self._lost = 0
        self._broken: set[int] = set()  # pages that are in the file and cannot be used

    # --- pages ---

    def put(self, number: int, page: Page) -> None:
        """Keep a page; a newer one of the same number replaces it."""
        with self._change:
            self._keep(number, page)
            self.count = max(self.count, number + 1)
            self._want_written(number)
            while len(self._unwritten) > MOST_UNWRITTEN and self.failure is None:
                self._change.wait()
            self._evict()

    def get(self, number: int) -> Page:
        """The page; one that the disk cannot give is computed again, and the disk counts as failing.

        Raises KeyError if it was never put and cannot be computed, StoreError if the disk fails then.
        """
        with self._change:
            page = self._ram.get(number)
            if page is not None:
                self._ram.move_to_end(number)
                return page
        started = perf_counter()
        page = self._read_or_fail(number)
        if page is None:
            page = self._compute(number)
        with self._change:
            self._keep(number, page)
            self._evict(spare=number)
            self._traffic.append((perf_counter() - started) * 1e3)
        return page

    def held(self) -> list[tuple[int, Page]]:
        """Those in memory, with their numbers."""
        with self._change:
            return list(self._ram.items())

    def prefetch(self, numbers: Iterable[int]) -> None:
        """Bring pages into memory that may be wanted soon, in the background, the first first."""
        if self._file is None:
            return
        with self._change:
            self._wanted = deque(n for n in numbers if n not in self._ram)
            if self._wanted:
                self._work()

    def __contains__(self, number: int) -> bool:
        """Whether `get` needs no computing."""
        with self._change:
            if number in self._ram:
                return True
        with self._io:
            return self._file is not None and number < self.count and self._file.frames.has(number)

    def afterwards(self, action: Callable[[], None]) -> None:
        """Run `action` on the thread when all pages put so far are in the file; of several that wait, the first and the
        last are run. A StoreError that it raises counts as a failing disk.
        """
        with self._change:
            if self._file is None or self.failure is not None:
                return
            del self._after[1:]
            self._after.append((set(self._unwritten), action))
            self._work()

    # --- figures ---

    @property
    def disk(self) -> int:
        """Bytes on disk."""
        return 0 if self._file is None else self._file.frames.disk_bytes

    @property
    def damaged(self) -> int:
        """Pages that were on disk and could not be read."""
        return 0 if self._file is None else self._file.frames.damaged

    def traffic(self) -> PageTraffic:
        """What happened since this was last asked."""
        with self._change:
            times, self._traffic = tuple(self._traffic), []
            found = PageTraffic(len(times), self._recomputed, self._prefetched, times, self._lost)
            self._recomputed = self._prefetched = self._lost = 0
        return found

    # --- life ---

    def clear(self) -> None:
        """Forget all pages. What is in the file is out of reach until it is written over."""
        with self._change:
            self._ram.clear()
            self._unwritten.clear()
            self._wanted.clear()
            self._after.clear()
            self._disk_use.clear()
            self._broken.clear()
            self.nbytes = self.count = 0

    def flush(self) -> None:
        """Wait until all pages are in the file, and what was to come afterwards is done.

        Raises StoreError if the disk failed.
        """
        with self._change:
            while (self._unwritten or self._after) and self.failure is None:
                self._work()
                self._change.wait()
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """Write what is left, end the thread, close the file. May be called twice; a failing disk is in `failure`."""
        with self._change:
            self._closing = True
            self._wanted.clear()
            self._change.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        if self._file is not None:
            self._file.frames.close()

    def copy(self) -> PageStore:
        """A store of its own with the same pages. It reads from the same file and writes nothing: what it has in
        memory stays there.
        """
        twin = PageStore(recompute=self.recompute)
        with self._change:
            twin._ram, twin.nbytes, twin.count = OrderedDict(self._ram), self.nbytes, self.count
        twin._lender = self if self._lender is None else self._lender
        return twin

    _lender: PageStore | None = None  # the store whose file this one reads

    # --- inside: `_change` is held in these ---

    def _keep(self, number: int, page: Page) -> None:
        before = self._ram.pop(number, None)
        self.nbytes += page.nbytes - (before.nbytes if before is not None else 0)
        self._ram[number] = page

    def _evict(self, spare: int | None = None) -> None:
        """Pages leave memory, unused for longest first, as far as they are elsewhere or can be computed again."""
        if self.ram_bytes is None or self.nbytes <= self.ram_bytes or not (self._file or self.recompute):
            return
        for number in list(self._ram):
            if self.nbytes <= self.ram_bytes:
                return
            if number not in self._unwritten and number != spare:
                self.nbytes -= self._ram.pop(number).nbytes

    def _want_written(self, number: int) -> None:
        """A page must not leave memory before it is on disk; if the disk failed, not unless it can be computed."""
        if self._file is not None and (self.failure is None or self.recompute is None):
            self._unwritten[number] = None
            self._work()

    def _fail(self, failure: StoreError) -> None:
        """The disk failed: from now on nothing is written. What can be computed may leave memory all the same."""
        self.failure = self.failure or failure
        if self.recompute is not None:
            self._unwritten.clear()
        self._change.notify_all()

    def _work(self) -> None:
        """There is something to do for the thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pages", daemon=True)
            self._thread.start()
        self._change.notify_all()

    # --- inside: the thread ---

    @property
    def _writable(self) -> bool:
        return bool(self._unwritten) and self.failure is None

    def _run(self) -> None:
        # Helpers of its own would spin beside the model's, which then takes twice as long a token. The number is this
        # thread's and that of threads that begin later, not of those that compute already.
        torch.set_num_threads(1)
        try:
            self._work_on()
        except Exception as error:  # nobody may wait for a thread that is no more
            with self._change:
                self._fail(StoreError(f"pages are not written any more ({type(error).__name__}: {error})"))

    def _work_on(self) -> None:
        while True:
            with self._change:
                while not (self._wanted or self._writable or self._ripe or self._closing):
                    self._change.wait()
                if not (self._wanted or self._writable or self._ripe):
                    return
                action = self._after[0][1] if self._ripe else None
                fetch = action is None and bool(self._wanted)
                number = -1 if action else self._wanted.popleft() if fetch else next(iter(self._unwritten))
                page, made_of = self._ram.get(number), self._made_of(number)
            if action is not None:
                self._act(action)
            elif fetch:
                self._fetch(number)
            elif page is not None:
                self._write(number, page, made_of or 0)

    @property
    def _ripe(self) -> bool:
        """Whether what waits for pages need not wait any more."""
        return bool(self._after) and self.failure is None and self._after[0][0].isdisjoint(self._unwritten)

    def _act(self, action: Callable[[], None]) -> None:
        failure: StoreError | None = None
        try:
            action()
        except StoreError as error:
            failure = error
        with self._change:
            self._after = [(pages, other) for pages, other in self._after if other is not action]
            if failure is not None:
                self._fail(failure)
            self._change.notify_all()

    def _fetch(self, number: int) -> None:
        try:
            page = self._read(number)
        except StoreError:
            return  # whoever really wants it is told
        with self._change:
            if page is not None and number not in self._ram:
                self._keep(number, page)
                self._prefetched += 1
                self._evict(spare=number)

    def _write(self, number: int, page: Page, made_of: int) -> None:
        failure: StoreError | None = None
        assert self._file is not None
        try:
            with self._io:
                if self._room():
                    self._file.write(number, page, made_of)
        except StoreError as error:
            failure = error
        with self._change:
            self._disk_use[number] = None
            self._disk_use.move_to_end(number)
            if failure is None and self._ram.get(number) is page:  # else a newer one came while this was written
                self._unwritten.pop(number, None)
            if failure is not None:
                self._fail(failure)
            self._evict()
            self._change.notify_all()

    def _room(self) -> bool:
        """Whether the file may take one more page, if need be after others left it. `_io` is held."""
        assert self._file is not None
        if self.disk_bytes is None or self.recompute is None:
            return True
        most = self.disk_bytes - self._file.frames.geometry.stride
        while self._file.frames.disk_bytes > most and (victim := self._victim()) is not None:
            self._file.frames.forget(victim)
        return self._file.frames.disk_bytes <= most

    def _victim(self) -> int | None:
        """The page on disk that was unused for longest: those of earlier runs by age, then by use."""
        assert self._file is not None
        with self._change:
            for number in self._file.frames.numbers(self._oldest):
                self._oldest = number + 1
                if number not in self._disk_use and number not in self._unwritten:
                    return number
            return self._disk_use.popitem(last=False)[0] if self._disk_use else None

    # --- inside: where pages come from ---

    def _read_or_fail(self, number: int) -> Page | None:
        """The page on disk, None where the disk fails and the page can be computed."""
        try:
            return self._read(number)
        except StoreError as error:
            if self.recompute is None:
                raise
            with self._change:
                self._fail(error)
            return None

    def _read(self, number: int) -> Page | None:
        if self._lender is not None:
            return self._lender._read(number)
        if self._file is None or not 0 <= number < self.count:
            return None
        with self._io:
            before = self._file.frames.damaged
            page = self._file.read(number, self._made_of(number))
            broken = self._file.frames.damaged > before
        with self._change:
            if page is not None:
                self._disk_use[number] = None
                self._disk_use.move_to_end(number)
            elif broken:
                self._broken.add(number)
        return page

    def _made_of(self, number: int) -> int | None:
        return None if self.made_of is None or number < 0 else self.made_of(number)

    def _compute(self, number: int) -> Page:
        if self.recompute is None or not 0 <= number < self.count:
            raise KeyError(f"no page {number} of {self.count}")
        page = self.recompute(number)
        with self._change:
            self._recomputed += 1
            self._lost += self._should_be_there(number)
            self._broken.discard(number)
            self._keep(number, page)
            if self.disk_bytes is None:  # a full disk gave this page up to have room for others
                self._want_written(number)
        return page

    def _should_be_there(self, number: int) -> bool:
        """Whether a page that the file does not have was lost, rather than given up."""
        if self._file is None or self.failure is not None:
            return False
        return self.disk_bytes is None or number in self._broken
