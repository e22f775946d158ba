"""The chat ends, as by kill -9, at every place where it writes, syncs, renames or cuts a file.

A first run is watched for these sites and how often each is met. Then there is a run for the first, the second and the
last time of each, which ends before the call, and another that ends within it if it writes. All this for a talk in a
new session, in one whose files are torn, so that mending is cut off, too, and in one whose pages and gists come and
go; and for an export, an import, and the repair of a damaged log.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tools.fault_programme.chats import Said, ToyChat, replies
from tools.fault_programme.failing_os import CHANGES, WRITES, Call, FailingOS, Fault, Kind
from tools.fault_programme.power_cuts import WITH_GISTS
from tools.fault_programme.row import Outcome, Plan
from tools.fault_programme.verdict import NAME, what_is_wrong

PROMPTS = ("Good morning.", "What is new?", "Tell me more of it, please.")
TALK = ("--session", NAME, "--json", *(flag for prompt in PROMPTS for flag in ("-p", prompt)))
EXPORT = "kept.safetensors"


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


class Before(NamedTuple):
    """A session that was there before, and the turns that it told."""

    chat: ToyChat
    told: list[Said]


class Beginning(NamedTuple):
    """prepare: makes what the run finds (what was before, the chat) -> turns that must be there afterwards. flags: of
    the run. then: run after a crash, as people would; says what is wrong, or "".
    """

    prepare: Callable[[Before, ToyChat], Sequence[Said]]
    flags: tuple[str, ...] = TALK
    then: Callable[[ToyChat], str] = lambda chat: ""


class _Programme:
    """Runs, each in a folder of its own with the same model."""

    def __init__(self, chat: ToyChat, folder: Path) -> None:
        self.chat, self.folder = chat, folder
        self._count = 0
        before = self._home("before")
        told = [replies(before.run(*TALK, *WITH_GISTS)[1]) for _ in range(3)]
        self._before = Before(before, [said for talk in told for said in talk])
        before.run("--session", NAME, "--export", str(before.home / EXPORT))

    def _home(self, begin: str) -> ToyChat:
        self._count += 1
        return self.chat.elsewhere(self.folder / f"{begin}-{self._count}")

    def _begun(self, begin: str) -> tuple[ToyChat, Sequence[Said]]:
        chat = self._home(begin)
        return chat, BEGINNINGS[begin].prepare(self._before, chat)

    def _run(self, begin: str, chat: ToyChat, decide: Callable[[Call], Fault | None]) -> tuple[int, list[Said]]:
        flags = [flag.replace("HOME", chat.home.as_posix()) for flag in BEGINNINGS[begin].flags]
        code, said = chat.run(*flags, around=lambda: _watched(chat.home, decide))
        return code, replies(said) if "--json" in flags else []

    def sites(self, begin: str) -> dict[str, int]:
        """How often each site is met."""
        chat, _ = self._begun(begin)
        code, _ = self._run(begin, chat, lambda call: None)
        assert code == 0, chat.notes
        found: dict[str, int] = json.loads((chat.home / "sites.json").read_text())
        return found

    def wrong_after(self, crash: Crash) -> str | None:
        """None if the run came to its end without meeting the crash."""
        chat, told = self._begun(crash.begin)

        def decide(call: Call) -> Fault | None:
            return Fault(crash.kind) if (call.site, call.nth) == (crash.site, crash.nth) else None

        code, more = self._run(crash.begin, chat, decide)
        if code != -signal.SIGKILL:
            return None if code == 0 else f"exit code {code}: {chat.notes[-400:]}"
        problem = BEGINNINGS[crash.begin].then(chat) or what_is_wrong(chat, [*told, *more])
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


def _new(_: Before, __: ToyChat) -> Sequence[Said]:
    """Nothing."""
    return ()


def _grown(before: Before, chat: ToyChat) -> Sequence[Said]:
    """A session longer than its view, with gists."""
    shutil.copytree(before.chat.sessions, chat.sessions)
    return before.told


def _torn(before: Before, chat: ToyChat) -> Sequence[Said]:
    """A session that was cut off in the middle of everything."""
    _grown(before, chat)
    for name, at in (("tokens.log", -7), ("turns.jsonl", -4), ("pages.ctx", 50), ("view.snap", 90)):
        path = chat.sessions / NAME / name
        path.write_bytes(path.read_bytes()[:at])
    return ()


def _damaged(before: Before, chat: ToyChat) -> Sequence[Said]:
    """A session whose log is damaged in its middle, among other things: the chat refuses it. Turns before are whole."""
    from tools.inspection.verify import verify

    _grown(before, chat)
    folder = chat.sessions / NAME
    for name in ("tokens.log", "pages.ctx", "turns.jsonl"):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2 + 40] ^= 1
        (folder / name).write_bytes(data)
    whole = verify(folder).tokens
    return [said for said in before.told if said.history <= whole]


def _exported(before: Before, chat: ToyChat) -> Sequence[Said]:
    """An export, and no session yet."""
    shutil.copy(before.chat.home / EXPORT, chat.home)
    return ()


def _export_is_whole(chat: ToyChat) -> str:
    """Or it is not there."""
    from megacontext.sessions.portable import unpack

    path = chat.home / "new.safetensors"
    with contextlib.suppress(FileNotFoundError):
        unpack(path.read_bytes())
    return ""


def _mended(chat: ToyChat) -> str:
    """Repaired once more, to the end."""
    code, _ = chat.run("repair")
    return f"the repair ends with {code}: {chat.notes[-400:]}" if code else ""


BEGINNINGS = {
    "new": Beginning(_new),
    "torn": Beginning(_torn),
    "grown": Beginning(_grown, (*TALK, *WITH_GISTS)),
    "export": Beginning(_grown, ("--session", NAME, "--export", "HOME/new.safetensors"), _export_is_whole),
    "import": Beginning(_exported, ("--session", NAME, "--import", f"HOME/{EXPORT}")),
    "repair": Beginning(_damaged, ("repair",), _mended),
}
