"""One process that goes on with a session, as after a crash, and times it. `python -m tools.storing.restart PLACE AT`.

PLACE: the JSON of a Place. AT: the time (seconds since 1970) at which this process was asked for. Prints one JSON
object. The first turn is the cold one, in a process that has computed nothing; those after it are warm.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

from megacontext.telemetry.events import Event, Tick
from tools.storing.memory_use import MemoryUse, deep_size, forget_peak, memory_use
from tools.storing.place import Open, Place, load, opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from megacontext.cache import ContextCache
    from megacontext.models.base import LoadedModel

QUESTIONS = (
    "What was said about the house by the river, and by whom?",
    "And what came before that?",
    "Tell it again, in a few words.",
    "Which of these was the first?",
)
CHAT_IMPORTS = (
    *("megacontext.cache", "megacontext.conversation", "megacontext.models", "megacontext.session"),
    *("nanochat.engine", "nanochat.sampling", "numpy.ma", "safetensors.torch"),
)
SAMPLES, COMPUTED = 64, 4  # pages that are read, and computed again


def measure(place: Place, asked: float) -> dict[str, Any]:
    """All figures of one restart."""
    import torch

    for name in CHAT_IMPORTS:  # they are no part of opening a session
        import_module(name)
    imported = time.time()
    loaded = load(place)
    found: dict[str, Any] = {
        "process_ms": _ms(imported - asked),
        "load_ms": _ms(time.time() - imported),
        "threads": torch.get_num_threads(),
    }
    forget_peak()
    before, started, cpu = memory_use(), perf_counter(), process_time()
    prompts = PromptTicks()
    with opened(place, loaded, prompts) as there:
        found["session_ms"] = _ms(perf_counter() - started)
        resumed = there.conversation.resume()
        found["open_ms"], found["open_cpu_ms"] = _ms(perf_counter() - started), _ms(process_time() - cpu)
        found |= {"kept_tokens": resumed.kept, "read_again": resumed.tokens - resumed.kept, "why": resumed.why}
        found |= _resident(there, before, memory_use())
        found |= _turns(there, prompts)
        found |= _page_in(place, there, loaded)
        found["tokens"] = len(there.session)
    return found


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


# --- memory ---


def _resident(there: Open, before: MemoryUse | None, after: MemoryUse | None) -> dict[str, Any]:
    """Bytes by name right after opening; `others` is what the system counts beyond these."""
    cache = _cache(there)
    scorer: Any = cache.scorer
    named = {
        "tokens": 4 * len(cache.tree),
        "log": there.session.log.nbytes,
        "turns": deep_size(there.session.turns),
        "context": deep_size((cache.context.entries, cache.context.since)),
        "lexical": scorer.lexical.nbytes,
        "means": scorer.semantic.nbytes,
        "pages": cache.tree.pages.nbytes,
        "view": cache.view.arena.nbytes,
    }
    if before is None or after is None:
        return {"resident": named, "opening_peak": None}
    named["others"] = after.anonymous - before.anonymous - sum(named.values())
    return {"resident": named, "opening_peak": after.peak - before.peak if after.peak > before.peak else 0}


def _cache(there: Open) -> ContextCache:
    from megacontext.cache import ContextCache

    assert isinstance(there.conversation.cache, ContextCache)
    return there.conversation.cache


# --- turns ---


@dataclass
class Watch:
    """Time spent in calls that keep what was said, while an answer runs. spent: (when, seconds)."""

    spent: list[tuple[float, float]] = field(default_factory=list)

    def over(self, owner: object, name: str) -> None:
        """Time every call of owner.name from now on."""
        call: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.spent.append((started, perf_counter() - started))

        setattr(owner, name, timed)

    def between(self, start: float, stop: float) -> float:
        return sum(seconds for when, seconds in self.spent if start <= when < stop)


class PromptTicks:
    """A sink that keeps how long scoring took at the ends of prompts. score_ms: in order."""

    def __init__(self) -> None:
        self.score_ms: list[float] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, Tick) and event.reason == "prompt" and event.latency_ms:
            self.score_ms.append(event.latency_ms["score"])

    def close(self) -> None:
        """There is nothing to close."""


def _turns(there: Open, prompts: PromptTicks) -> dict[str, Any]:
    """Time to the first token, cold and warm; what keeping costs while an answer runs."""
    watch, sampler = Watch(), TokenTimes(there.conversation)
    for owner, name in ((there.session, "append"), (there.files, "keep"), (there.files.pages, "put")):
        watch.over(owner, name)
    first, first_cpu, decode_s, keep_s, thread_s = [], [], 0.0, 0.0, 0.0
    for question in QUESTIONS:
        sampler.times.clear()
        started, cpu = perf_counter(), process_time()
        with _thread_time() as thread:
            for _ in there.conversation.say(question):
                pass
        first.append(sampler.times[0] - started)
        first_cpu.append(sampler.cpu - cpu)
        decode_s += sampler.times[-1] - sampler.times[0]
        keep_s += watch.between(sampler.times[0], sampler.times[-1])
        thread_s += thread[0]
    tokens = sum(sampler.counts) - len(QUESTIONS)
    warm = median(first[1:])
    return {
        "first_token_ms": _ms(first[0]),
        "warm_first_token_ms": _ms(warm),
        "first_token_cpu_ms": _ms(first_cpu[0]),
        "warm_first_token_cpu_ms": _ms(median(first_cpu[1:])),
        "score_ms": round(median(prompts.score_ms[1:]), 3) if len(prompts.score_ms) > 1 else None,
        "decode_ms": _ms(decode_s / max(tokens, 1)),
        "keep_ms": _ms(keep_s / max(tokens, 1)),
        "keep_share": round(keep_s / decode_s, 5) if decode_s else None,
        "thread_share": round(thread_s / decode_s, 5) if decode_s else None,
    }


class TokenTimes:
    """Stands before a conversation's sampler and notes when it is asked. times: of this turn. cpu: of its first."""

    def __init__(self, conversation: Any) -> None:
        self.times: list[float] = []
        self.counts: list[int] = []
        self.cpu = 0.0
        sample = conversation._sampler

        def timed(logits: Any) -> int:
            token = sample(logits)
            if not self.times:
                self.counts.append(0)
                self.cpu = process_time()
            self.times.append(perf_counter())
            self.counts[-1] += 1
            return token

        conversation._sampler = timed


@contextmanager
def _thread_time() -> Iterator[list[float]]:
    """CPU seconds of the thread that writes pages, meanwhile."""
    spent, before = [0.0], _pages_thread()
    yield spent
    spent[0] = _pages_thread() - before


def _pages_thread() -> float:
    for thread in threading.enumerate():
        if thread.name == "pages" and thread.ident is not None and hasattr(time, "pthread_getcpuclockid"):
            return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return 0.0


# --- pages ---


def _page_in(place: Place, there: Open, loaded: LoadedModel) -> dict[str, Any]:
    """Milliseconds until a page is there: from memory, from disk (not in the system's cache), computed again."""
    import random

    from megacontext.recompute import recompute_page
    from megacontext.tree.memory_files import PAGES_NAME
    from tools.storing.disk import drop_from_cache

    cache, pages = _cache(there), there.files.pages
    compute = partial(recompute_page, loaded.model, cache.tree, cache.grid)
    pages.flush()
    numbers = random.Random(0).sample(range(pages.count), min(SAMPLES, pages.count))
    drop_from_cache(place.folder / PAGES_NAME)
    pages.traffic()
    for number in numbers:
        pages.get(number)
    times = {
        "disk": list(pages.traffic().fault_ms),  # those that were not in memory
        "ram": [_timed(partial(pages.get, numbers[-1])) for _ in numbers],
        "computed": [_timed(partial(compute, n)) for n in numbers[:COMPUTED]],
    }
    return {"page_in_ms": {name: _spread(found) for name, found in times.items()}}


def _timed(call: Callable[[], object]) -> float:
    started = perf_counter()
    call()
    return (perf_counter() - started) * 1000


def _spread(times: list[float]) -> dict[str, float | None]:
    from megacontext.telemetry.timing import percentile

    shares = {"p50": 0.5, "p95": 0.95}
    return {name: round(percentile(times, share), 4) if times else None for name, share in shares.items()}


if __name__ == "__main__":
    print(json.dumps(measure(Place(**json.loads(sys.argv[1])), float(sys.argv[2]))))
