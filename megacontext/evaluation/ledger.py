"""The books of a comparison: which episodes there are, and the rows they make. Every episode goes to the file at once.

A row is written anew whenever it has grown by an episode, and read back as what its last line says; so a killed run
loses the episode that it was at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megacontext.evaluation.matrix import Cell, Work
from megacontext.evaluation.names import FULL, MEGACONTEXT
from megacontext.evaluation.rows import Row, RowFile
from megacontext.evaluation.summary import summarise


class Ledger:
    """cells with their identities (see `Runner.identity`); said: what every row also says."""

    def __init__(self, cells: Mapping[Cell, Row], file: RowFile, said: Row) -> None:
        self.cells, self.file, self.said = dict(cells), file, said
        self.episodes: dict[Cell, dict[int, Mapping[str, Any]]] = {
            cell: {one["seed"]: one for one in file.finished.get(identity["run"], {}).get("per_seed", ())}
            for cell, identity in cells.items()
        }

    def has(self, work: Work) -> bool:
        """Whether this episode is there."""
        return work.seed in self.episodes[work.cell]

    def add(self, work: Work, episode: Mapping[str, Any]) -> None:
        """Keep the episode, and the rows that it changes."""
        self.episodes[work.cell][work.seed] = episode
        for cell in [work.cell, *self._measured_against(work)]:
            row = self.row(cell)
            assert row is not None
            self.file.add(row)

    def row(self, cell: Cell) -> Row | None:
        """The row so far; None without an episode."""
        episodes = self.episodes[cell]
        if not episodes:
            return None
        full = self._raw(self._find(cell, FULL, None))
        ours = self._raw(self._find(cell, MEGACONTEXT, cell.budget)) if cell.cache != MEGACONTEXT else None
        against = {MEGACONTEXT: ours} if ours else {}
        return {**self.cells[cell], **summarise(episodes.values(), full, **against), **self.said}

    def rows(self) -> list[Row]:
        """All that there are, in the order of the cells."""
        return [row for row in map(self.row, self.cells) if row is not None]

    def _measured_against(self, work: Work) -> list[Cell]:
        """The rows that change because this one has."""
        if work.cell.cache not in (FULL, MEGACONTEXT):
            return []
        return [
            cell
            for cell in self.cells
            if cell is not work.cell
            and work.cell in (self._find(cell, FULL, None), self._find(cell, MEGACONTEXT, cell.budget))
            and work.seed in self.episodes[cell]
        ]

    def _find(self, cell: Cell, cache: str, budget: int | None) -> Cell | None:
        """The row of the same task that is called `cache`."""

        def place(one: Cell) -> Sequence[Any]:
            return one.model, one.task, one.split

        same = (one for one in self.cells if one.cache == cache and one.budget == budget and place(one) == place(cell))
        return next(same, None)

    def _raw(self, cell: Cell | None) -> Row | None:
        """What other rows need of this one."""
        return None if cell is None else {"per_seed": list(self.episodes[cell].values())}
