"""What a row of the fault programme is given, and what it comes to. Knows no row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

MOST_TOLD = 20  # things lost that a row's outcome names


@dataclass(frozen=True)
class Plan:
    """name: of the row. scale: 1 for the figures of CI. seed: of all that is drawn. folder: its own, and empty."""

    name: str
    folder: Path
    scale: float = 1.0
    seed: int = 0

    def count(self, figure: int, least: int = 1) -> int:
        """How many, where `figure` is what CI runs."""
        return max(least, round(figure * self.scale))

    def rng(self, *of: object) -> Random:
        """Random numbers that the seed, the row and `of` alone decide."""
        return Random(" ".join(map(str, (self.seed, self.name, *of))))

    def fresh(self, name: str) -> Path:
        """A new folder."""
        path = self.folder / name
        path.mkdir(parents=True)
        return path


@dataclass
class Outcome:
    """faults: injected, but for kills. torn: kills that left a torn tail. fuzzed: inputs by parser. said: more, in
    words. lost: what did not survive, a line each; the first ones of `missing`.
    """

    faults: int = 0
    survived: int = 0
    kills: int = 0
    torn: int = 0
    fuzzed: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    lost: list[str] = field(default_factory=list)
    said: str = ""
    seconds: float = 0.0

    def fault(self, problem: str) -> None:
        """One more fault; problem: what it did harm to, or ""."""
        self.faults += 1
        self.survived += not problem
        self.check(problem)

    def check(self, problem: str) -> None:
        """Something that must hold; problem: why it does not, or ""."""
        if problem:
            self.missing += 1
            if len(self.lost) < MOST_TOLD:
                self.lost.append(problem)

    def as_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


Row = Callable[[Plan], Outcome]
