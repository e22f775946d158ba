"""The chat ends, as by kill -9, at every place where it writes, syncs, renames or cuts a file.

A first run is watched for these sites and how often each is met. Then there is a run for the first, the second and the
last time of each, which ends before the call, and another that ends within it if it writes. All this with a new
session, and again with one whose files are torn, so that mending is cut off, too.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tools.fault_programme.chats import ToyChat, replies
from tools.fault_programme.failing_os import CHANGES, WRITES, Call, FailingOS, Fault, Kind
from tools.fault_programme.row import Outcome, Plan
from tools.fault_programme.verdict import NAME, what_is_wrong

TALK = ("--session", NAME, "--json", "-p", "Good morning.", "-p", "What is new?", "-p", "Tell me more of it, please.")


class Crash(NamedTuple):
    """Where a run ends."""

    begin: str
    site: str
    nth: int
    kind: Kind


def run(plan: Plan) -> Outcome:
    outcome = Outcome()
    programme = _Programme(ToyChat.made(plan.fresh("made")), plan.fresh("runs"))
    crashes = [crash for begin in BEGINNINGS for crash in _crashes(begin, programme.sites(begin), plan)]
    plan.rng().shuffle(crashes)
    met = 0
    for crash in crashes[: plan.count(len(crashes)) if plan.scale < 1 else None]:
        if (problem := programme.wrong_after(crash)) is not None:
            met += 1
            outcome.fault(problem and f"{crash}: {problem}")
    outcome.said = f"{len({crash.site for crash in crashes})} sites, {met} of {len(crashes)} crashes were met"
    return outcome


def _crashes(begin: str, sites: dict[str, int], plan: Plan) -> Iterator[Crash]:
    """First, second, last; at a larger scale others, too."""
    rng = plan.rng(begin)
    for site, count in sorted(sites.items()):
        call = site.rpartition(" ")[2]
        if call not in CHANGES:
            continue
        times = {1, 2, count, *(rng.randint(1, count) for _ in range(round(3 * plan.scale) - 3))}
        for nth in sorted(times & set(range(1, count + 1))):
            yield Crash(begin, site, nth, "before")
            if call in WRITES:
                yield Crash(begin, site, nth, "within")


class _Programme:
    """Runs, each in a folder of its own with the same model."""

    def __init__(self, chat: ToyChat, folder: Path) -> None:
        self.chat, self.folder = chat, folder
        self._count = 0
        self._torn = self._home("torn")
        self._torn.run(*TALK)

    def _home(self, begin: str) -> ToyChat:
        self._count += 1
        return self.chat.elsewhere(self.folder / f"{begin}-{self._count}")

    def _begun(self, begin: str) -> ToyChat:
        chat = self._home(begin)
        BEGINNINGS[begin](self._torn.sessions, chat.sessions)
        return chat

    def sites(self, begin: str) -> dict[str, int]:
        """How often each site is met."""
        chat = self._begun(begin)
        code, _ = chat.run(*TALK, around=lambda: _watched(chat.home, lambda call: None))
        assert code == 0, chat.notes
        found: dict[str, int] = json.loads((chat.home / "sites.json").read_text())
        return found

    def wrong_after(self, crash: Crash) -> str | None:
        """None if the run came to its end without meeting the crash."""
        chat = self._begun(crash.begin)

        def decide(call: Call) -> Fault | None:
            return Fault(crash.kind) if (call.site, call.nth) == (crash.site, crash.nth) else None

        code, said = chat.run(*TALK, around=lambda: _watched(chat.home, decide))
        if code != -signal.SIGKILL:
            return None if code == 0 else f"exit code {code}: {chat.notes[-400:]}"
        problem = what_is_wrong(chat, replies(said))
        if not problem:
            shutil.rmtree(chat.home)
        return problem


@contextlib.contextmanager
def _watched(home: Path, decide: Callable[[Call], Fault | None]) -> Iterator[None]:
    """Calls on files below `home` are met; afterwards sites.json has their number."""
    failing = FailingOS(decide, home)
    with failing.installed():
        yield
    (home / "sites.json").write_text(json.dumps(failing.seen))


# --- what a run begins with ---


def _new(_: Path, __: Path) -> None:
    """Nothing."""


def _torn(before: Path, sessions: Path) -> None:
    """A session that was cut off in the middle of everything."""
    shutil.copytree(before, sessions)
    folder = sessions / NAME
    for name, at in (("tokens.log", -7), ("turns.jsonl", -4), ("pages.ctx", 50), ("view.snap", 90)):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:at])


BEGINNINGS = {"new": _new, "torn": _torn}
