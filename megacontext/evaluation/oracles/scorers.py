"""The scorers that look ahead. Told what comes next, they say which far blocks serve it, the best one 1.0.

Tokens that have come since they were told are no longer ahead. With nothing ahead they know nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from megacontext.config import MemoryConfig
from megacontext.evaluation.episodes.steps import Ask, Range, Step
from megacontext.evaluation.oracles.judging import Change, Judge, Mass
from megacontext.evaluation.oracles.shadow import Shadow
from megacontext.evaluation.oracles.swap import Trial
from megacontext.focus.base import Moment, Scorer, Scores
from nanochat.hook import BaseModel

BEST = 64  # blocks that are named
TRIED = 32  # blocks that are added to a view to see what they are worth
TRIED_EVERY = 32  # tokens of text between two such trials


class Told:
    """What is ahead, as it was told last. number: how often something was told."""

    def __init__(self) -> None:
        self.ahead: list[int] = []
        self.number = 0

    def tell(self, ranges: Sequence[Range], ahead: Sequence[int]) -> None:
        """Called between passes. ranges: not needed here."""
        self.ahead, self.number = list(ahead), self.number + 1


class LookAhead(Scorer):
    """What full attention's own rows say of each block, by a judge. Copies share the shadow and what is told.

    seen: tokens observed; told_at: how many of them when it was told what is ahead.
    """

    judge: type[Judge]
    raw = False

    def __init__(self, model: BaseModel, config: MemoryConfig) -> None:
        self.config = config
        self.shadow = Shadow(model, self.judge(config.block), raw=self.raw)
        self.told = Told()
        self.seen = self.told_at = self.number = 0

    def observe(self, tokens: Sequence[int]) -> None:
        self._listen()
        self.seen += len(tokens)

    def score(self, moment: Moment) -> Scores:
        self._listen()
        history = moment.context.history
        ahead = self.told.ahead[history - self.told_at :]
        if not ahead or moment.far_end <= self.config.protect_first:
            return {}
        return _normalised(self._judged(moment, moment.tree.tokens(0, history), ahead))

    def _judged(self, moment: Moment, history: Sequence[int], ahead: Sequence[int]) -> Scores:
        words = self.shadow.look(history, ahead, moment.far_end).tolist()
        return {number: words[number] for number in range(self.config.protect_first, moment.far_end)}

    def _listen(self) -> None:
        if self.number != self.told.number:
            self.number, self.told_at = self.told.number, self.seen

    @property
    def flops(self) -> int:  # type: ignore[override]
        return self.shadow.flops

    @property
    def nbytes(self) -> int:
        return self.shadow.nbytes

    def copy(self) -> LookAhead:
        return copy(self)


class MassOracle(LookAhead):
    """By the largest attention mass that any head of any layer will give a block."""

    judge = Mass


class ChangeOracle(LookAhead):
    """By how far attention's output will move without the block: the largest of any head, summed over layers."""

    judge = Change


class SwapOracle(LookAhead):
    """By how much a block in view lowers the loss of what comes: tried one by one, the best TRIED by mass.

    Such trials are made when a prompt ends and every TRIED_EVERY tokens of text; in between their outcome is kept. One
    costs TRIED + 1 passes of the rows ahead over the protected ends.
    """

    judge = Mass
    raw = True

    def __init__(self, model: BaseModel, config: MemoryConfig) -> None:
        super().__init__(model, config)
        self.kept: Scores = {}
        self.tried_at: int | None = None

    def _judged(self, moment: Moment, history: Sequence[int], ahead: Sequence[int]) -> Scores:
        due = self.tried_at is None or len(history) - self.tried_at >= TRIED_EVERY
        if due or moment.words is not None:
            self.kept, self.tried_at = self._tried(moment, history, ahead), len(history)
        return self.kept

    def _tried(self, moment: Moment, history: Sequence[int], ahead: Sequence[int]) -> Scores:
        masses = super()._judged(moment, history, ahead)
        config, shadow = self.config, self.shadow
        whole = {n: mass for n, mass in masses.items() if (n + 1) * config.block < len(history)}  # its last row is read
        blocks = sorted(_best(whole, TRIED))
        trial = Trial(
            shadow.model,
            shadow.cache,
            [*history, *ahead],
            len(history),
            shadow.carry_before(len(history) - 1),
            block=config.block,
            first=config.protect_first * config.block,
            recent_start=moment.far_end * config.block,
        )
        gains = trial.gains(blocks)
        shadow.flops += trial.flops
        return dict(zip(blocks, gains, strict=True))


def _best(scores: Scores, count: int) -> list[int]:
    return sorted(scores, key=lambda number: scores[number], reverse=True)[:count]


def _normalised(scores: Scores) -> Scores:
    """The best blocks with their share of the best one's score; those that help nothing are not named."""
    best = max(scores.values(), default=0.0)
    return {number: scores[number] / best for number in _best(scores, BEST) if scores[number] > 0}


def most_tokens(steps: Sequence[Step]) -> int:
    """Tokens of the longest text that a memory has before it while these steps are taken."""
    length = most = 0
    for step in steps:
        if isinstance(step, Ask):
            asked = length + len(step.prompt) + max(map(len, step.candidates))
            most, length = max(most, asked), asked + len(step.after) if step.stay else length
        else:
            length += len(step.tokens)
    return max(most, length)
