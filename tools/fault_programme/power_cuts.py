"""The power fails while the chat talks: what was not synced is lost, in any order, and every turn that was told stays.

A session is begun, cut off, taken up and cut off again, so that files of before the cut meet a log that lost its end
and grew again. At the end all turns told as finished are there, and each page and gist that the memory would believe
has the first layer's keys of its own tokens: these depend on nothing else.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from tools.fault_programme import toy_talk
from tools.fault_programme.chats import BLOCK, Said, ToyChat, replies
from tools.fault_programme.failing_os import Call, FailingOS, Fault
from tools.fault_programme.power import CAN_CUT, Unsynced
from tools.fault_programme.row import Outcome, Plan
from tools.fault_programme.verdict import NAME, what_is_wrong

if TYPE_CHECKING:
    from torch import Tensor

    from megacontext.models.base import LoadedModel

CUTS, CUTS_OF_A_SESSION = 60, 6
TURNS, MAX_TOKENS = 4, 20
FEWEST, MOST = 20, 220  # calls of the operating system before a cut; a run makes some two hundred
WITH_GISTS = ("--set", "memory.gist_slots=[1, 0, 0, 0]", "--set", "memory.budget=220")


def run(plan: Plan) -> Outcome:
    if not CAN_CUT:
        return Outcome(said="left out: it needs Linux")
    outcome, made = Outcome(), ToyChat.made(plan.fresh("made"), max_tokens=MAX_TOKENS)
    loaded, lost, frames = toy_talk.load("llama", made.model), 0, Counter[str]()
    for first in range(0, plan.count(CUTS), CUTS_OF_A_SESSION):
        session = _Session(made.elsewhere(plan.folder / f"session-{first}", max_tokens=MAX_TOKENS), plan.rng(first))
        session.flags = WITH_GISTS if first // CUTS_OF_A_SESSION % 2 else ()
        last = min(first + CUTS_OF_A_SESSION, plan.count(CUTS)) - 1
        for number in range(first, last + 1):
            if session.was_cut():
                looked_at = number % 2 or number == last  # else the next one takes up what this one left
                problem = session.problem() if looked_at else ""
                outcome.fault(problem and f"cut {number} (seed {plan.seed}): {problem}")
        problem = wrong_frames(session.chat.sessions / NAME, loaded, frames)
        outcome.check(problem and f"session {first} (seed {plan.seed}): {problem}")
        lost += session.lost
    told = f"of pages and gists {frames['good']:,} are of their tokens, {frames['stale']:,} of others and refused"
    outcome.said = f"{lost:,} changes were lost; {told}"
    return outcome


class _Session:
    """One conversation, cut off again and again. told: turns so far. lost: changes that the cuts undid."""

    def __init__(self, chat: ToyChat, rng: Random) -> None:
        self.chat, self.rng, self.told, self.lost = chat, rng, list[Said](), 0
        self.flags: tuple[str, ...] = ()

    def was_cut(self) -> bool:
        """Talk until the power fails, or to the end."""
        prompts = [flag for _ in range(TURNS) for flag in ("-p", toy_talk.sentence(self.rng))]
        at, rng = self.rng.randint(FEWEST, MOST), Random(self.rng.getrandbits(32))
        talk = ("--session", NAME, "--json", *prompts, *self.flags)
        code, said = self.chat.run(*talk, around=lambda: _powered(self.chat.home, at, rng))
        self.told += replies(said)
        note = self.chat.home / "cut.json"
        if code == 0 or not note.exists():
            return False
        self.lost += int(json.loads(note.read_text()))
        note.unlink()
        return True

    def problem(self) -> str:
        """What is wrong with the session now; it goes on by a turn. Event logs are never synced."""
        return what_is_wrong(self.chat, self.told, *self.flags, logs=False)


@contextlib.contextmanager
def _powered(home: Path, at: int, rng: Random) -> Iterator[None]:
    """The power fails at call `at` of those on files below `home`; cut.json tells how many changes went with it."""
    aside = home.parent / "aside"
    aside.mkdir(exist_ok=True)
    unsynced = Unsynced(aside)

    def decide(call: Call) -> Fault | None:
        if call.number != at:
            return None
        unsynced.cut(rng)
        (home / "cut.json").write_text(str(unsynced.lost))
        return Fault("before")

    with FailingOS(decide, home, unsynced.note).installed():
        yield


# --- what the memory would believe ---


def wrong_frames(folder: Path, loaded: LoadedModel, counts: Counter[str]) -> str:
    """Whether each page and gist of a session that would be read is of its tokens: "", or the first that is not.

    counts: of `good` ones, and of `stale` ones, which are whole and refused.
    """
    from megacontext.session import Session

    text = loaded.text
    with Session.open(folder.parent, folder.name, vocab=text.vocab_size, fingerprint=text.fingerprint) as session:
        tokens = session.tokens(0, len(session))
    for path in sorted(folder.glob("*s*.ctx")):
        for number, keys in _first_keys(path, tokens, counts):
            mine = _keys_of(loaded, tokens[number * BLOCK : (number + 1) * BLOCK])
            if (keys[:, :, None] - mine[:, None]).abs().amax(-1).amin(-1).max() > 1e-4:
                return f"frame {number} of {path.name} is of other tokens"
            counts["good"] += 1
    return ""


def _first_keys(path: Path, tokens: list[int], counts: Counter[str]) -> Iterator[tuple[int, Tensor]]:
    """Number and first layer's keys (Hk, n, d) of every frame that would be read."""
    import zlib

    import numpy as np
    import torch

    from megacontext.tree.ctx_format import GISTS, PAGES
    from megacontext.tree.frame_file import FrameFile

    with contextlib.closing(FrameFile.open_any(path)) as file:
        shape = (file.geometry.kv_heads, file.geometry.rows, file.geometry.width)
        size = int(np.prod(shape))
        for number in range(min(file.places, len(tokens) // BLOCK) if file.geometry.kind in (PAGES, GISTS) else 0):
            of = np.array(tokens[number * BLOCK : (number + 1) * BLOCK], "<u4")
            payload = file.read(number, zlib.crc32(of.tobytes()))
            if payload is not None:
                yield number, torch.frombuffer(bytearray(payload[: 4 * size]), dtype=torch.float32).view(shape)
            counts["stale"] += payload is None and file.read(number) is not None


def _keys_of(loaded: LoadedModel, tokens: list[int]) -> Tensor:
    """The first layer's keys (Hk, n, d) of these tokens."""
    from megacontext.gist.top_token import TopTokenGist
    from megacontext.recompute import recompute_page
    from megacontext.span import Grid
    from megacontext.tree.memory_tree import MemoryTree

    tree = MemoryTree(Grid(BLOCK), TopTokenGist())
    tree.append(tokens)
    return recompute_page(loaded.model, tree, tree.grid, 0).keys[0]
