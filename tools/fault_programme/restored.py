"""Sessions whose process was killed, taken up by another one: it must stand, bit for bit, where the first one stood.

A process tells each token that it samples, with a digest of the logits. It is killed between two turns, or in the
middle of an answer. The oracle is a process that says the same and never dies. What the next one samples, or computes
of the next token, must have the oracle's digests, and it may not read again what was kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tools.fault_programme import forks, toy_talk
from tools.fault_programme.row import Outcome, Plan
from tools.fault_programme.toy_talk import BLOCK

if TYPE_CHECKING:
    from torch import Tensor

    from megacontext.models.base import LoadedModel

SESSIONS, MAX_TOKENS = 20, 20
TURNS = (2, 5)  # whole ones before the kill


class Step(NamedTuple):
    """What a process told. history: tokens in the log. token: sampled of logits with this digest; -1: a turn ended."""

    history: int
    token: int
    digest: str


class Case(NamedTuple):
    """turns: whole ones before the process is killed. steps: tokens of the next answer, then; 0: between two turns.
    gists: blocks out of view have one.
    """

    number: int
    model: str
    turns: int
    steps: int
    gists: bool


def run(plan: Plan) -> Outcome:
    outcome, compared = Outcome(), 0
    models = {kind: toy_talk.load(kind, plan.folder / "model") for kind in toy_talk.MODELS}
    for number in range(plan.count(SESSIONS)):
        rng = plan.rng(number)
        kind = toy_talk.MODELS[number // 2 % len(toy_talk.MODELS)]
        case = Case(
            number, kind, rng.randint(*TURNS), rng.randint(1, MAX_TOKENS) if number % 2 else 0, number // 8 % 2 == 1
        )
        session = _Session(models[kind], plan.fresh(str(number)), case)
        session.prompts = [toy_talk.sentence(rng) for _ in range(case.turns + 1)]
        outcome.kills += 1
        problem = session.problem()
        compared += session.compared
        outcome.check(problem and f"{case}: {problem}")
    outcome.said = f"{outcome.kills} sessions taken up, {compared} logits compared with those of a process that lived"
    return outcome


class _Session:
    """compared: logits that another process had, too."""

    def __init__(self, loaded: LoadedModel, folder: Path, case: Case) -> None:
        self.loaded, self.folder, self.case = loaded, folder, case
        self.prompts: list[str] = []
        self.compared = 0

    def problem(self) -> str:
        """Why the session does not stand where it stood, or ""."""
        whole = _steps(forks.finished(lambda out: self._converse("whole", self.prompts, out))[1])
        ends = [at for at, step in enumerate(whole, 1) if step.token < 0]
        before, turn = ends[-2], whole[ends[-2] :]
        told = self._killed(before + min(self.case.steps, len(turn) - 1))
        if told != whole[: len(told)]:
            return "the same prompts did not give the same logits"
        code, found = forks.finished(lambda out: self._take_up(turn, out))
        if code:
            return f"it cannot be taken up: exit code {code}"
        first, _, rest = found.partition(b"\n")
        resumed, again = json.loads(first), _steps(rest)
        return self._misplaced(resumed, turn) or self._different(again, turn, resumed["kept"])

    def _killed(self, steps: int) -> list[Step]:
        """Say the same, and die after so many steps were told -> all that was told."""
        prompts = self.prompts if self.case.steps else self.prompts[:-1]
        child = forks.start(lambda out: self._converse("killed", prompts, out, wait=True))
        with os.fdopen(child.out, "rb") as out:
            told = b"".join(out.readline() for _ in range(steps))
            child.kill()
            return _steps(told + out.read())

    def _converse(self, name: str, prompts: Sequence[str], out: int, *, wait: bool = False) -> None:
        """Say all prompts; after each turn wait for the disk. wait: be killed at the end."""
        sampler = Telling(out)
        talk = self._open(name, sampler)
        for prompt in prompts:
            talk.say(prompt)
            talk.files.flush()
            sampler.end_turn()
        if wait:
            signal.pause()

    def _open(self, name: str, sampler: Telling) -> toy_talk.ToyTalk:
        root, gists = self.folder / name, self.case.gists
        sampler.talk = toy_talk.open_talk(self.loaded, root, sampler, max_tokens=MAX_TOKENS, gists=gists)
        return sampler.talk

    def _take_up(self, turn: Sequence[Step], out: int) -> None:
        """Tell what the session is found at; then go on with the turn, or with the next token of its answer."""
        rows = _counted_rows(self.loaded)
        sampler = Telling(out)
        talk = self._open("killed", sampler)
        _tell(out, {**talk.resumed._asdict(), "rows": sum(rows)})
        if not self.case.steps:
            talk.say(self.prompts[-1])
            sampler.end_turn()
            return
        for step in turn:
            if step.history == len(talk.session) and step.token >= 0:
                talk.session.append([step.token])
                sampler(toy_talk.feed(self.loaded, talk.cache, step.token))

    def _misplaced(self, resumed: dict[str, Any], turn: Sequence[Step]) -> str:
        """Whether what was kept was taken up, and next to nothing read again."""
        most = 2 * BLOCK if self.case.steps else 0  # a block may be sealed, and its state not be written yet
        return f"{resumed}" if resumed["why"] or resumed["rows"] > most else ""

    def _different(self, again: Sequence[Step], turn: Sequence[Step], kept: int) -> str:
        """Compare what both processes told. A state from before the prompt's end had not seen what it asked for."""
        if kept < turn[0].history - 1 and self.case.steps:
            return ""
        oracle = {step.history: step for step in turn if step.token >= 0}
        both = [(step, oracle[step.history]) for step in again if step.token >= 0 and step.history in oracle]
        self.compared += len(both)
        if not self.case.steps and len(both) < len(oracle):
            return f"{len(both)} tokens instead of {len(oracle)}"
        return next((f"{step} instead of {expected}" for step, expected in both if step != expected), "")


class Telling:
    """A sampler that depends on its logits alone, and tells."""

    def __init__(self, out: int) -> None:
        self.out = out
        self.talk: toy_talk.ToyTalk | None = None

    def __call__(self, logits: Tensor) -> int:
        digest = hashlib.sha256(logits.float().contiguous().numpy().tobytes()).hexdigest()[:24]
        token = int(logits[0].float().topk(8).indices[int(digest[:8], 16) % 8])
        _tell(self.out, Step(self.history, token, digest))
        return token

    def end_turn(self) -> None:
        _tell(self.out, Step(self.history, -1, ""))

    @property
    def history(self) -> int:
        assert self.talk is not None
        return len(self.talk.session)


def _tell(out: int, what: object) -> None:
    os.write(out, (json.dumps(what) + "\n").encode())


def _steps(told: bytes) -> list[Step]:
    return [Step(*json.loads(line)) for line in told.splitlines(keepends=True) if line.endswith(b"\n")]


def _counted_rows(loaded: LoadedModel) -> list[int]:
    """The rows of each pass of the model from now on."""
    model: Any = loaded.model
    rows: list[int] = []
    forward = model.forward

    def counting(stream: Any, cache: Any) -> Any:
        rows.append(stream.rows)
        return forward(stream, cache)

    model.forward = counting
    return rows
