"""Nearly right inputs for every parser of untrusted bytes: it may refuse them in the way it says, and nothing else.

Each parser runs in a process of its own whose memory is limited: a crash, a hang, another exception, a second of
computing or more memory than the limit is a loss, told with the seed and the number of the input.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tools.fault_programme import forks
from tools.fault_programme.fuzz_gguf import gguf_targets
from tools.fault_programme.fuzz_inspection import inspection_targets
from tools.fault_programme.fuzz_memory import memory_targets
from tools.fault_programme.fuzz_models import model_targets
from tools.fault_programme.fuzz_nanochat import nanochat_targets
from tools.fault_programme.fuzz_target import Target
from tools.fault_programme.fuzz_texts import text_targets
from tools.fault_programme.mutate import mutated, mutated_json
from tools.fault_programme.row import Outcome, Plan

INPUTS = 20_000
MOST_SECONDS = 1.0  # of computing, for one input
MOST_WAIT = 60  # seconds for a hundred inputs, then it hangs
MORE_MEMORY = 512 << 20  # bytes that a parser may take beyond what was there
_AT = struct.Struct("<Q")


def run(plan: Plan) -> Outcome:
    outcome, slowest = Outcome(), dict[str, float]()
    for target in targets(plan.fresh("files")):
        count = plan.count(int(INPUTS * target.share), least=20)
        started = time.monotonic()
        problem = _fuzzed(target, count, plan.rng(target.name).getrandbits(48))
        outcome.fuzzed[target.name] = count
        outcome.check(problem and f"{target.name} (seed {plan.seed}): {problem}")
        slowest[target.name] = (time.monotonic() - started) / count * 1e6
    outcome.said = ", ".join(f"{name} {micros:.0f} us" for name, micros in slowest.items())
    return outcome


def targets(folder: Path) -> Iterator[Target]:
    yield from memory_targets(folder)
    yield from inspection_targets(folder)
    yield from text_targets(folder)
    yield from gguf_targets(folder)
    yield from model_targets(folder)
    yield from nanochat_targets(folder)


def inputs(target: Target, seed: int) -> Iterator[bytes]:
    """Endless, and always the same for a seed."""
    rng = Random(seed)
    while True:
        data = rng.choice(target.seeds)
        if target.tree is not None and rng.random() < 0.5:
            data = target.tree.dump(data, mutated_json(target.tree.load(data), rng))
        else:
            data = mutated(data, target.seeds, target.words, rng)
        yield target.sealed(data) if target.sealed is not None and rng.random() < 0.7 else data


def _fuzzed(target: Target, count: int, seed: int) -> str:
    """What went wrong, or ""."""
    shared = mmap.mmap(-1, _AT.size)
    child = forks.start(lambda out: _feed(target, count, seed, shared, out))
    told = child.rest().decode(errors="replace")
    code = child.wait()
    if told or code:
        at = _AT.unpack(shared[: _AT.size])[0]
        ended = f"exit code {code}; " if code else ""
        return f"{ended}input {at} of generator seed {seed}: {told.strip() or 'no word'}"
    return ""


def _feed(target: Target, count: int, seed: int, shared: mmap.mmap, out: int) -> None:
    """The seeds, which must be taken, then all inputs, up to the first that goes wrong: that is told."""
    _limit_memory()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    warnings.simplefilter("ignore")  # libraries wonder about what they are given
    signal.alarm(MOST_WAIT)
    told = next(filter(None, (_wrong(target, data, ()) for data in target.seeds)), "")
    for at, data in zip(range(0 if told else count), inputs(target, seed), strict=False):
        if at % 100 == 0:
            signal.alarm(MOST_WAIT)
        shared[: _AT.size] = _AT.pack(at)
        started = time.process_time()
        told = _wrong(target, data, target.allowed)
        took = time.process_time() - started
        if not told and took > MOST_SECONDS:
            told = f"{took:.1f} s for {data[:200]!r}"
        if told:
            break
    os.write(out, told.encode(errors="replace"))


def _wrong(target: Target, data: bytes, allowed: tuple[type[BaseException], ...]) -> str:
    """What a parser does with an input that it may not do, or ""."""
    try:
        target.parse(data)
    except allowed:
        pass
    except BaseException as error:
        return f"{type(error).__name__}: {error} for {data[:200]!r}"
    return ""


def _limit_memory() -> None:
    """What there is now, and MORE_MEMORY."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return  # no such limit here
    most = pages * resource.getpagesize() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
