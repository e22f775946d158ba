"""What an episode measured, as it is gathered and as plain figures. No tensors, and no memory but for its sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

from megacontext.evaluation.episodes.steps import Groups

if TYPE_CHECKING:
    from nanochat.hook import KVCache

PIECE = 64  # scored tokens of running text that count as one item


@dataclass
class Outcome:
    """What an episode measured. asked, right: questions. nll: nats of every scored token.

    An item is a question, or a piece of PIECE scored tokens of running text (the last may be shorter): what is drawn
    again and again when the interval of a figure is wanted.
    """

    asked: int = 0
    right: int = 0
    nll: list[float] = field(default_factory=list)
    history: int = 0
    slots: int = 0  # most slots in view when something was scored, the scored rows included
    items: list[float] = field(default_factory=list)  # of a question 1.0 or 0.0, of a piece its mean nats a token
    item_nll: list[float] = field(default_factory=list)  # mean nats a token of every item, the right answer's
    groups: dict[str, list[float]] = field(default_factory=dict)  # by name: 1.0 or 0.0 a question, nats a token
    kl: list[float] = field(default_factory=list)  # nats a token to full attention, where it is asked for
    read_slots: int = 0  # most slots that a row read, when something was scored
    nbytes: int = 0  # most bytes that the memory held, when something was scored
    asking_flops: int = 0  # spent by copies of the memory that were asked, on choosing what is seen

    @property
    def mean_nll(self) -> float | None:
        return _mean(self.nll) if self.nll else None

    @property
    def mean_kl(self) -> float | None:
        return _mean(self.kl) if self.kl else None

    @property
    def accuracy(self) -> float | None:
        return self.right / self.asked if self.asked else None

    def see(self, cache: KVCache) -> None:
        """Something is about to be scored, or has just been."""
        usage = cache.usage
        self.slots = max(self.slots, usage.resident_slots)
        self.read_slots = max(self.read_slots, usage.read_slots)
        self.nbytes = max(self.nbytes, usage.nbytes)

    def add_answer(self, right: bool, nats: list[float], groups: Groups) -> None:
        """A question was answered. nats: of the right answer's tokens."""
        self.asked += 1
        self.right += right
        self.nll += nats
        self.items.append(float(right))
        self.item_nll.append(_mean(nats))
        for name in groups:
            self.groups.setdefault(name, []).append(float(right))

    def add_text(self, nats: list[float], groups: list[Groups]) -> None:
        """A known text was scored to its end."""
        means = [_mean(nats[start : start + PIECE]) for start in range(0, len(nats), PIECE)]
        self.nll += nats
        self.items += means
        self.item_nll += means
        for nat, names in zip(nats, groups, strict=False):
            for name in names:
                self.groups.setdefault(name, []).append(nat)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def figures(out: Outcome) -> dict[str, Any]:
    """For a row, rounded as rows are."""
    return {
        "accuracy": _rounded(out.accuracy),
        "nll": _rounded(out.mean_nll),
        "kl": _rounded(out.mean_kl),
        "history_tokens": out.history,
        "slots": out.slots,
        "read_slots": out.read_slots,
        "bytes": out.nbytes,
        "tokens": len(out.nll),
        "items": [round(item, 5) for item in out.items],
        "item_nll": [round(item, 5) for item in out.item_nll],
        "groups": {name: [round(value, 5) for value in pieces(values)] for name, values in out.groups.items()},
    }


def pieces(values: Sequence[float]) -> list[float]:
    """The figures themselves, or of more than PIECE the means of as many pieces as it takes, which are of one length
    but for one.
    """
    count = -(-len(values) // PIECE)
    if count < 2:
        return list(values)
    ends = [len(values) * number // count for number in range(count + 1)]
    return [fmean(values[start:end]) for start, end in pairwise(ends)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
