"""The chat on a disk that fails at its k-th call: an error once, a disk that stays full, a write that takes a part.

A turn that was told as finished before the fault is there afterwards, once the disk works again. What a fault hits is
told: by exit code 4 (2 where the event log cannot be made) and a line that says why, or else nothing may be missing.
All turns are answered whatever happens to the disk, but for one that fails before there is a session.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools.fault_programme.chats import ToyChat, replies
from tools.fault_programme.failing_os import CALLS, WRITES, Call, FailingOS, Fault
from tools.fault_programme.power_cuts import WITH_GISTS
from tools.fault_programme.row import Outcome, Plan
from tools.fault_programme.verdict import NAME, what_is_wrong

FAULTS = 200
PROMPTS = ("Good morning.", "What is new?", "Tell me more of it, please.")
TALK = ("--session", NAME, "--json", *(flag for prompt in PROMPTS for flag in ("-p", prompt)))
GROWING = (*WRITES, "mkdir")  # what needs room
MARK = b'{"type": "fault"'


class Trouble(NamedTuple):
    """error: what the k-th call fails with, 0 for a short write. stays: every later write fails, too.

    What needs no room is not hit by a full disk, and what writes nothing cannot be cut short: then the next one is.
    """

    call: int
    error: int
    stays: bool

    def __str__(self) -> str:
        return f"{errno.errorcode.get(self.error, 'short write')} at call {self.call}{' and on' * self.stays}"


KINDS = ((errno.EIO, False), (errno.ENOSPC, True), (0, False))


def run(plan: Plan) -> Outcome:
    outcome, made = Outcome(), ToyChat.made(plan.fresh("made"))
    begun = made.elsewhere(plan.folder / "begun")
    calls = [_calls(begun), *(_calls(begun, *WITH_GISTS) for _ in range(3))]  # in a new session, ..., a grown one
    count, rng = plan.count(FAULTS), plan.rng()
    for number in range(count):
        kind, grown = KINDS[number % len(KINDS)], number % 2
        of = calls[-1 if grown else 0]
        trouble = Trouble(number * of // count + rng.randrange(max(of // count, 1)), *kind)
        chat = made.elsewhere(plan.folder / f"run-{number}")
        if grown:
            shutil.copytree(begun.sessions, chat.sessions)
        problem = _wrong_after(chat, trouble, WITH_GISTS if grown else ())
        if problem is not None:
            outcome.fault(problem and f"{trouble} of {of} (run {number}, seed {plan.seed}): {problem}")
    outcome.said = f"{outcome.faults} of {count} calls were met, of {calls[0]} in a run and {calls[-1]} in a longer one"
    return outcome


def _calls(chat: ToyChat, *flags: str) -> int:
    """How many there are in a talk to which nothing happens."""
    code, _ = chat.run(*TALK, *flags, around=lambda: _watched(chat.home, None))
    assert code == 0, chat.notes
    return sum(json.loads((chat.home / "sites.json").read_text()).values())


def _wrong_after(chat: ToyChat, trouble: Trouble, flags: tuple[str, ...]) -> str | None:
    """None if the run came to its end before the fault."""
    code, said = chat.run(*TALK, *flags, around=lambda: _watched(chat.home, trouble))
    before, mark, after = said.partition(MARK)
    if not mark:
        return None if code == 0 else f"exit code {code}: {chat.notes[-300:]}"
    notes, told = chat.notes, replies(said)
    where = mark.split(b'"')[0] and after.split(b'"')[3].decode()
    if code not in (0, 2, 4) or "Traceback" in notes:
        return f"exit code {code}, {where}: {notes[-1500:]}"
    if code and "error: " not in notes:
        return f"exit code {code} without a word: {notes[-300:]}"
    if len(told) < len(PROMPTS) and (code == 0 or b'"delta"' in before):
        return f"{len(told)} answers, exit code {code}, {where}: {notes[-800:]}"
    safe = told if code == 0 else replies(before)
    return what_is_wrong(chat, safe, *flags)


@contextlib.contextmanager
def _watched(home: Path, trouble: Trouble | None) -> Iterator[None]:
    """Calls on files below `home` are met; the fault is told on stdout. Afterwards sites.json has their number."""

    met: list[str] = []

    def decide(call: Call) -> Fault | None:
        if trouble is None or call.number < trouble.call or (met and not trouble.stays):
            return None
        if call.name not in (GROWING if trouble.stays else WRITES if not trouble.error else CALLS):
            return None
        if not met:
            _mark(call.site)
        met.append(call.site)
        return Fault("error", trouble.error) if trouble.error else Fault("short")

    failing = FailingOS(decide, home)
    with failing.installed():
        yield
    (home / "sites.json").write_text(json.dumps(failing.seen))


def _mark(site: str) -> None:
    """On stdout, by a way that cannot fail."""
    with open(1, "wb", buffering=0, closefd=False) as out:
        out.write(MARK + f', "site": "{site}"}}\n'.encode())
