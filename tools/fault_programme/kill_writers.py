"""kill -9 of a writer of the token log, at random moments: while it opens the log, appends, syncs or does nothing.

A writer acknowledges each sync. Afterwards the log must open, hold at least what was acknowledged, and nothing else
than what was written. Half of the writers have a disk that takes a few bytes at a time, so that frames are torn.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from random import Random

import numpy as np

from tools.fault_programme import forks
from tools.fault_programme.row import Outcome, Plan

KILLS = 1000
KILLS_OF_A_LOG = 20  # then a new one is begun
LONGEST_LIFE = 0.012  # seconds
VOCAB = 50_000
BITE = 40  # bytes that a slow disk takes at a time
ACKNOWLEDGED = struct.Struct("<Q")


def run(plan: Plan) -> Outcome:
    outcome, rng, acknowledged, tokens = Outcome(), plan.rng(), 0, 0
    for number in range(plan.count(KILLS)):
        path = plan.folder / f"{number // KILLS_OF_A_LOG}" / "tokens.log"
        if number % KILLS_OF_A_LOG == 0:
            acknowledged, tokens = 0, tokens + acknowledged
        acknowledged = max(acknowledged, _killed(path, number, rng))
        outcome.kills += 1
        torn, problem = _found(path, acknowledged)
        outcome.torn += torn
        outcome.check(problem and f"kill {number} (seed {plan.seed}): {problem}")
    outcome.said = f"{tokens + acknowledged:,} acknowledged tokens are there"
    return outcome


def _killed(path: Path, number: int, rng: Random) -> int:
    """Write for a while, and be killed -> tokens that were acknowledged."""
    seed, life = rng.getrandbits(32), rng.uniform(0, LONGEST_LIFE)
    child = forks.start(lambda out: _write_on(path, Random(seed), out, slow=number % 2 == 1))
    time.sleep(life)
    child.kill()
    told = child.rest()
    whole = len(told) // ACKNOWLEDGED.size * ACKNOWLEDGED.size
    return max((found for (found,) in ACKNOWLEDGED.iter_unpack(told[:whole])), default=0)


def _write_on(path: Path, rng: Random, out: int, *, slow: bool) -> None:
    """Append and sync until the end."""
    from megacontext.tree.token_log import TokenLog

    if slow:
        write = os.write
        os.write = lambda descriptor, data: write(descriptor, memoryview(data)[:BITE])  # this process is a fork
    log = TokenLog.open(path, vocab=VOCAB, fingerprint="fault programme")
    while True:
        for _ in range(rng.randint(1, 3)):
            count = rng.choice((1, 1, 7, 60, 60, 5000))
            log.append(tokens_of(len(log), len(log) + count))
        log.sync()
        os.write(out, ACKNOWLEDGED.pack(len(log)))


def tokens_of(start: int, stop: int) -> np.ndarray:
    """What stands at [start, stop) of every log: (stop - start,)."""
    return (np.arange(start, stop) * 7919 + 13) % VOCAB


def _found(path: Path, acknowledged: int) -> tuple[bool, str]:
    """Whether the tail was torn, and what is wrong or ""."""
    from megacontext.errors import StoreError
    from megacontext.tree.token_log import TokenLog

    try:
        with TokenLog.open(path, vocab=VOCAB, fingerprint="fault programme") as log:
            torn, there = log.truncated > 0, log.array(0, len(log))
    except StoreError as error:
        return False, f"the log cannot be opened: {error}"
    if len(there) < acknowledged:
        return torn, f"{acknowledged} tokens were acknowledged, {len(there)} are there"
    wrong = np.flatnonzero(there != tokens_of(0, len(there)))
    return torn, f"token {wrong[0]} is {there[wrong[0]]}" if len(wrong) else ""
