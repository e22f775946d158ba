"""What a process needs to run any episode of a comparison: runners by model, one at a time. Knows no order of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megacontext.config import DemoConfig
from megacontext.errors import BudgetError, MegaContextError
from megacontext.evaluation.comparison.matrix import Cell, Work
from megacontext.evaluation.comparison.rows import Row
from megacontext.evaluation.comparison.runner import Runner
from megacontext.evaluation.corpus import Corpus
from megacontext.evaluation.tasks.base import Task


@dataclass
class Shop:
    """Can be pickled, and so be sent to a process. scratch: see `Runner`."""

    demo: DemoConfig
    corpus: Corpus
    scratch: Path
    _open: dict[str, Runner] = field(default_factory=dict)

    def runner(self, model: str) -> Runner:
        """The runner of the model at this path; the one before is let go."""
        if model not in self._open:
            self._open.clear()
            changed = self.demo.model.model_copy(update={"path": model})
            self._open[model] = Runner.open(self.demo.model_copy(update={"model": changed}), self.corpus, self.scratch)
        return self._open[model]

    def episode(self, work: Work) -> dict[str, Any]:
        return self.runner(work.cell.model).episode(work)

    def forget(self) -> None:
        """Let go of the model."""
        self._open.clear()

    def check(self, cells: Sequence[Cell]) -> list[tuple[Row, MegaContextError | None]]:
        """Of each cell its identity, and why it cannot be, if so. Raises ConfigError, before anything has been run."""
        refusals: dict[tuple[Any, ...], BudgetError | None] = {}
        tried: set[tuple[str, Task]] = set()
        found: list[tuple[Row, MegaContextError | None]] = []
        for cell in cells:
            runner = self.runner(cell.model)
            if (cell.model, cell.task) not in tried:
                tried.add((cell.model, cell.task))
                runner.try_out(cell.task)
            if cell.made_of not in refusals:
                refusals[cell.made_of] = runner.refusal(cell)
            found.append((runner.identity(cell), refusals[cell.made_of] or runner.too_long(cell)))
        return found
