"""What a comparison consists of: models x tasks x budgets x caches are its cells, cells x seeds its episodes.

Values alone: no torch. Episodes come seed by seed and short tasks first, so that whatever is interrupted is a smaller
comparison, not a part of one; of a task the controls come first, since the others are measured against them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, field_validator

from megacontext.config import FilePath, Section
from megacontext.errors import ConfigError
from megacontext.evaluation.caches import CACHES, split_name
from megacontext.evaluation.comparison.tuning import DEV, DEV_SEEDS, DEV_WORD, Tuned, trials
from megacontext.evaluation.names import CONTROLS, FULL, GROUPS, MEGACONTEXT, ORACLE
from megacontext.evaluation.tasks import TASKS, check_name, make_task
from megacontext.evaluation.tasks.base import Task

TEST = "test"
LEAST_SEEDS = 3  # with fewer, an interval over seeds says little


def checked(kind: str, name: str, there: Sequence[str]) -> str:
    """As pydantic wants it: a ValueError."""
    try:
        check_name(kind, split_name(name)[0] if kind == "cache" else name, list(there))
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return name


def known_caches(names: Sequence[str]) -> tuple[str, ...]:
    """Raises ValueError for a name that is none."""
    return tuple(checked("cache", name, [*CACHES, *GROUPS]) for name in names)


class TaskRun(Section):
    """One task of a comparison."""

    name: str
    """A task's name; --help lists them."""
    seeds: Annotated[int, Field(ge=1, lt=DEV_SEEDS)] = LEAST_SEEDS
    """Episodes: seeds 0 .. seeds - 1."""
    tokens: Annotated[int | None, Field(ge=64)] = None
    """Tokens of history; null: as many as the task has by itself."""
    caches: tuple[str, ...] | None = None
    """Only these on this task, without controls that are not among them; null: all of the comparison's."""
    budgets: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Only these on this task; null: all of the comparison's."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return checked("task", name, list(TASKS))

    @field_validator("caches")
    @classmethod
    def _known_caches(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return known_caches(names) if names else names


class CompareConfig(Section):
    """A comparison: which caches on which tasks, at which budgets, with which models."""

    demo: FilePath = "configs/megacontext_demo.yaml"
    """Configuration whose model and memory are measured."""
    models: tuple[str, ...] = ()
    """Models instead of that configuration's, as its model.path names one; paths from the project root."""
    budgets: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Slots instead of that configuration's."""
    corpus: FilePath = "artifacts/corpus/sample.txt"
    """The real text, where --text names no other; its manifest stands beside it."""
    tuned: FilePath = "configs/compare/tuned.yaml"
    """Settings of each method, chosen on the development split; without the file, every method has its defaults."""
    caches: Annotated[tuple[str, ...], Field(min_length=1)] = ("full", "recency", "megacontext", "oracle")
    """Caches, by name or name[field=value,...]; --help lists them. ours, baselines: all of them."""
    tasks: Annotated[tuple[TaskRun, ...], Field(min_length=1)] = tuple(TaskRun(name=name) for name in TASKS)
    """What they are measured on."""

    @field_validator("caches")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return known_caches(names)


@dataclass(frozen=True, eq=False)
class Cell:
    """One row to be: a memory on a task. budget: slots, None for the plain cache, which has any number.

    tuned: settings over the method's own defaults. rank: where it stands among the memories of its task and budget.
    """

    model: str
    task: Task
    cache: str
    budget: int | None
    seeds: tuple[int, ...]
    split: str = TEST
    tuned: Mapping[str, Any] = field(default_factory=dict)
    rank: int = 0

    @property
    def made_of(self) -> tuple[Any, ...]:
        """What the memory is made from, whatever it is used for."""
        return self.model, self.cache, self.budget, str(sorted(self.tuned.items()))

    @property
    def place(self) -> tuple[Any, ...]:
        """Where its row stands in a table; of several trials of one method, all in one place."""
        return self.model, self.task, self.split, self.cache, self.budget

    @property
    def label(self) -> str:
        """For people: the task, the slots, the memory."""
        size = "" if self.budget is None else f"  {self.budget}"
        return f"{self.task.name}{size}  {self.cache}"


@dataclass(frozen=True, eq=False)
class Work:
    """One episode to be."""

    cell: Cell
    seed: int


@dataclass(frozen=True)
class Plan:
    """Which cells a comparison has. models, budgets: at least one each. private: see Task; dev: tuning trials."""

    models: tuple[str, ...]
    budgets: tuple[int, ...]
    caches: tuple[str, ...]
    tasks: tuple[TaskRun, ...]
    tuned: Tuned = field(default_factory=Tuned)
    private: str = ""
    dev: bool = False

    def cells(self) -> list[Cell]:
        """In the order of a table: by model, task, budget, cache; of trials in the order they are declared.

        What two entries of a task both ask for is one cell, with the seeds of the one that has more.
        """
        found: dict[tuple[Any, ...], Cell] = {}
        for cell in (cell for model in self.models for run in self.tasks for cell in self._of_task(model, run)):
            key = (*cell.place, *cell.made_of)
            known = found.setdefault(key, cell)
            if len(cell.seeds) > len(known.seeds):
                found[key] = replace(known, seeds=cell.seeds)
        return list(found.values())

    def _of_task(self, model: str, run: TaskRun) -> list[Cell]:
        task = make_task(run.name, tokens=run.tokens, private=DEV_WORD if self.dev else self.private)
        first = DEV_SEEDS if self.dev else 0
        seeds, split = tuple(range(first, first + run.seeds)), DEV if self.dev else TEST
        caches = self.caches if run.caches is None else ordered(run.caches, controls=False)
        found = []
        for place, budget in enumerate(run.budgets or self.budgets):
            for rank, name in enumerate(caches):
                if (name == FULL and place) or (name == ORACLE and not task.has_sources):
                    continue
                slots = None if name == FULL else budget
                for settings in trials(name) if self.dev else [self.tuned.of(name, slots)]:
                    found.append(Cell(model, task, name, slots, seeds, split, settings, rank))
        return found


def ordered(names: Sequence[str], *, controls: bool) -> tuple[str, ...]:
    """First what others are measured against, then the rest as named. controls: also those that nobody named."""
    spelt = [one for name in names for one in GROUPS.get(name, [name])]
    first = [name for name in (*CONTROLS, MEGACONTEXT) if name in spelt or (controls and name in CONTROLS)]
    return tuple(dict.fromkeys([*first, *spelt]))


def in_order(cells: Sequence[Cell]) -> list[Work]:
    """All episodes: model by model, seed by seed, short tasks first, controls first."""
    models = {model: number for number, model in enumerate(dict.fromkeys(cell.model for cell in cells))}
    works = [Work(cell, seed) for cell in cells for seed in cell.seeds]

    def key(work: Work) -> tuple[Any, ...]:
        cell = work.cell
        return models[cell.model], work.seed, cell.task.tokens, cell.task.name, cell.budget or 0, cell.rank

    return sorted(works, key=key)


def episode_of(work: Work) -> tuple[Any, ...]:
    """What the episodes of different memories have in common when they are of one text."""
    return work.cell.model, work.cell.task, work.seed
