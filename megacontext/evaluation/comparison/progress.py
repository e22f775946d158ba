"""How far a comparison has come, and how long it will still take by what was measured. No clock: seconds are given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean

from megacontext.evaluation.comparison.matrix import Work


class Progress:
    """Counts episodes. An episode is expected to take as long as others of the same memory and task at those slots,
    else as others of the memory on any task, else as any: by their seconds a token of history.
    """

    def __init__(self, todo: Iterable[Work], jobs: int = 1) -> None:
        self.todo, self.jobs = dict.fromkeys(todo), jobs
        self.all = len(self.todo)
        self._rates: dict[tuple[object, ...], list[float]] = defaultdict(list)

    def measured(self, work: Work, seconds: float) -> None:
        """An episode of this kind took so long."""
        for key in self._kinds(work):
            self._rates[key].append(seconds / work.cell.task.tokens)

    def ended(self, work: Work) -> None:
        """One less, however it ended."""
        self.todo.pop(work, None)

    def told(self) -> str:
        """'[3/24, 12 min left]'"""
        left = self.left()
        return f"[{self.all - len(self.todo)}/{self.all}{'' if left is None else f', {duration(left)} left'}]"

    def left(self) -> float | None:
        """Seconds, or None while nothing has been measured."""
        if not self._rates:
            return None
        return sum(map(self._expected, self.todo)) / self.jobs

    def _expected(self, work: Work) -> float:
        rates = next(self._rates[key] for key in self._kinds(work) if key in self._rates)
        return fmean(rates) * work.cell.task.tokens

    @staticmethod
    def _kinds(work: Work) -> tuple[tuple[object, ...], ...]:
        """From the most alike to any."""
        cell = work.cell
        alike = (cell.model, cell.task.name, cell.task.tokens, cell.cache, cell.budget)
        return alike, (cell.model, cell.cache), (cell.model,), ()


def duration(seconds: float) -> str:
    """'2 h 5 min', '3 min', '40 s'."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if seconds >= 100 else f"{round(seconds)} s"
