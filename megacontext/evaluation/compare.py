"""Compares memories on tasks: one row for each cache and task.

    python -m megacontext.evaluation.compare --config configs/compare/recall_quick.yaml --json

Caches run with the model and the memory section of the configuration that the comparison names (`demo`), so a row says
what a user of that configuration gets. Exit codes: 0 ok, 1 failure, 2 usage or config, 3 assets missing, 5 budget
impossible, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from megacontext.config import FilePath, Section
from megacontext.config_loader import LoadedConfig, load_config
from megacontext.errors import ConfigError
from megacontext.evaluation.caches import CACHES, FULL, ORACLE
from megacontext.evaluation.corpus import load_corpus
from megacontext.evaluation.flags import Parser, add_common, guarded, note, whole_number
from megacontext.evaluation.rows import SHOWN, Row, RowFile, line, print_table, summarise
from megacontext.evaluation.settings import load_settings
from megacontext.evaluation.tasks import TASKS, check_name, make_task

if TYPE_CHECKING:
    from megacontext.evaluation.runner import Runner
    from megacontext.evaluation.tasks.base import Task

DEFAULT_CONFIG = "configs/compare/recall_quick.yaml"


def _checked(kind: str, name: str, there: list[str]) -> str:
    """As pydantic wants it: a ValueError."""
    try:
        return check_name(kind, name, there)
    except ConfigError as error:
        raise ValueError(str(error)) from None


class TaskRun(Section):
    """One task of a comparison."""

    name: str
    """A task's name; --help lists them."""
    seeds: Annotated[int, Field(ge=1)] = 1
    """Episodes: seeds 0 .. seeds - 1."""
    tokens: Annotated[int | None, Field(ge=64)] = None
    """Tokens of history; null: as many as the task has by itself."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return _checked("task", name, list(TASKS))


class CompareConfig(Section):
    """A comparison: which caches on which tasks."""

    demo: FilePath = "configs/megacontext_demo.yaml"
    """Configuration whose model and memory are measured."""
    corpus: FilePath = "artifacts/corpus/sample.txt"
    """The real text, where --text names no other; its manifest stands beside it."""
    caches: Annotated[tuple[str, ...], Field(min_length=1)] = ("full", "recency", "megacontext", "oracle")
    """Caches, by name; --help lists them."""
    tasks: Annotated[tuple[TaskRun, ...], Field(min_length=1)] = tuple(TaskRun(name=name) for name in TASKS)
    """What they are measured on."""

    @field_validator("caches")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_checked("cache", name, list(CACHES)) for name in names)


def build_parser() -> Parser:
    epilog = f"tasks   {', '.join(TASKS)}\ncaches  {', '.join(CACHES)}\n"
    parser = Parser("python -m megacontext.evaluation.compare", f"{__doc__ or ''}\n{epilog}")
    parser.add_argument(
        "--config", default=DEFAULT_CONFIG, metavar="FILE", help=f"YAML file (default {DEFAULT_CONFIG})"
    )
    parser.add_argument("--task", action="append", metavar="NAME", help="only this task; repeatable")
    parser.add_argument("--cache", action="append", metavar="NAME", help="only this cache; repeatable")
    parser.add_argument("--seeds", type=whole_number(1), metavar="N", help="episodes of every task")
    add_common(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the rows that --out has of the same settings (a change of the code goes unnoticed)",
    )
    return parser


def select(config: CompareConfig, flags: argparse.Namespace) -> CompareConfig:
    """The config, narrowed and widened by --task, --cache and --seeds. Raises ConfigError for a name not known."""
    caches = tuple(check_name("cache", name, list(CACHES)) for name in flags.cache or config.caches)
    runs = config.tasks
    if flags.task:
        names = [check_name("task", name, list(TASKS)) for name in flags.task]
        runs = tuple(run for name in names for run in _runs_of(config, name))
    if flags.seeds:
        runs = tuple(run.model_copy(update={"seeds": flags.seeds}) for run in runs)
    return config.model_copy(update={"caches": tuple(dict.fromkeys(caches)), "tasks": runs})


def _runs_of(config: CompareConfig, name: str) -> list[TaskRun]:
    return [run for run in config.tasks if run.name == name] or [TaskRun(name=name)]


def compare(config: CompareConfig, runner: Runner, finished: dict[str, Row]) -> Iterator[Row]:
    """The rows, task by task, the plain cache first: the others are measured against it."""
    for run in config.tasks:
        task, full = make_task(run.name, tokens=run.tokens), None
        for cache in sorted(config.caches, key=lambda name: name != FULL):
            if cache == ORACLE and not task.has_sources:
                note(f"{task.name}: no row for {ORACLE}, because nothing says which blocks are the right ones")
                continue
            row = _row(cache, task, run.seeds, runner, finished, full)
            if cache == FULL:
                full = row = {**row, **summarise(row["per_seed"], row)}
            yield row


def _row(cache: str, task: Task, seeds: int, runner: Runner, finished: dict[str, Row], full: Row | None) -> Row:
    kept = finished.get(runner.identity(cache, task, seeds)["run"])
    if kept is not None:
        note(f"{task.name}  {cache}: kept")
        return {**kept, **summarise(kept["per_seed"], full)} if full else kept
    return runner.row(cache, task, seeds, full=full, report=lambda text: note(f"{task.name}  {cache}  {text}"))


def measure(flags: argparse.Namespace) -> int:
    """Load, compare, print. Returns the exit code."""
    loaded: LoadedConfig[CompareConfig] = load_config(flags.config, CompareConfig)
    config = select(loaded.config, flags)
    if flags.resume and flags.out is None:
        raise ConfigError("--resume: say with --out FILE which rows to go on with")
    demo = load_settings(config.demo, flags.set).config
    corpus = load_corpus(Path(config.corpus), flags.text)
    file = RowFile(flags.out, resume=flags.resume)

    from megacontext.evaluation.runner import Runner

    runner = Runner.open(demo, corpus)
    rows = []
    for row in compare(config, runner, file.finished):
        rows.append({**row, "config": loaded.run})
        file.add(rows[-1])
        if flags.json:
            sys.stdout.write(line(rows[-1]))
            sys.stdout.flush()
    if not flags.json:
        print_table(rows, SHOWN, title=f"{rows[0]['model']}, {rows[0]['dtype']}" if rows else "")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return guarded(measure, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
