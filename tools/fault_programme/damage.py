"""Files cut at every byte, and with one bit flipped at every byte: a reader takes what is whole, and never lies.

    cut       what stood before the cut in whole pieces is read again (the floor), or the file is refused
    flipped   the flip is noticed: the file is refused, or what is read ends before it, or it stood where nothing stands

What counts as the right answer for a file is its target's business, see damage_targets.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tools.fault_programme.damage_targets import Target, targets
from tools.fault_programme.row import Outcome, Plan

BYTES = 1400  # of the token log, of the last frame of pages, of turns, of a snapshot, at least


def run(plan: Plan) -> Outcome:
    outcome, said = Outcome(), []
    for target in targets(plan.fresh("files"), plan.count(BYTES, least=40)):
        rng, before = plan.rng(target.name), outcome.faults
        for damaged, what in _damages(target, rng):
            problem = target.problem(damaged)
            outcome.fault(problem and f"{target.name} {what} (seed {plan.seed}): {problem}")
        said.append(f"{target.name} {outcome.faults - before:,}")
    outcome.said = "cut and flipped: " + ", ".join(said)
    return outcome


def _damages(target: Target, rng: Random) -> Iterator[tuple[bytes, str]]:
    """Each cut, then each flip of a bit drawn at random."""
    for at in target.cuts:
        yield target.data[:at], f"cut at byte {at}"
    for at in target.flips:
        flipped, bit = bytearray(target.data), rng.randrange(8)
        flipped[at] ^= 1 << bit
        yield bytes(flipped), f"with bit {bit} of byte {at} flipped"
