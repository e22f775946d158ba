"""Episodes one after the other, or several at a time, each in a process of its own. Knows nothing of what they are.

With several, every process has one thread: times taken then are no figures of speed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from megacontext.errors import MegaContextError

WorkT = TypeVar("WorkT")
WorkC = TypeVar("WorkC", contravariant=True)
FoundT = TypeVar("FoundT")
FoundC = TypeVar("FoundC", covariant=True)


class Workshop(Protocol[WorkC, FoundC]):
    """Does a piece of work. For several at a time it must be picklable."""

    def episode(self, work: WorkC) -> FoundC: ...


class Done(NamedTuple, Generic[WorkT, FoundT]):
    """A piece of work and what came of it; or why nothing did."""

    work: WorkT
    found: FoundT | None
    error: Exception | None = None


def in_turn(shop: Workshop[WorkT, FoundT], works: Sequence[WorkT]) -> Generator[Done[WorkT, FoundT], None, None]:
    """One after the other, in this process."""
    for work in works:
        yield _done(work, partial(shop.episode, work))


def side_by_side(
    shop: Workshop[WorkT, FoundT], works: Sequence[WorkT], jobs: int
) -> Generator[Done[WorkT, FoundT], None, None]:
    """`jobs` at a time, begun in their order, told in the order in which they end.

    Whoever stops listening ends the processes: of each, what it is at is lost. Raises MegaContextError if one of them
    was killed.
    """
    todo, running = iter(works), dict[Future[FoundT], WorkT]()
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads as they happen to be
    with ProcessPoolExecutor(jobs, context, _begin, (shop,)) as pool:
        try:
            while True:
                for work in islice(todo, jobs - len(running)):
                    running[pool.submit(_episode, work)] = work
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield _done(running.pop(future), future.result)
        finally:
            for child in multiprocessing.active_children() if running else []:
                child.terminate()


def _done(work: WorkT, result: Callable[[], FoundT]) -> Done[WorkT, FoundT]:
    try:
        return Done(work, result())
    except BrokenProcessPool as error:
        raise MegaContextError(
            "a process was killed while it ran an episode, perhaps because memory was short; fewer --jobs take less, "
            "and --resume goes on with what is finished"
        ) from error
    except Exception as error:  # one memory's fault must not end a comparison of many
        return Done(work, None, error)


_shop: Workshop[Any, Any] | None = None  # of a process that works for another


def _begin(shop: Workshop) -> None:
    """In a new process: Ctrl-C ends it without a word, and so does the end of the one it works for."""
    global _shop
    import torch

    _shop = shop
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _episode(work: Any) -> Any:
    assert _shop is not None
    return _shop.episode(work)
