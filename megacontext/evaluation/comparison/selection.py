"""What the flags of a comparison make of its file: the plan. Every name is checked here, before anything is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path

from megacontext.config import DemoConfig
from megacontext.config_loader import LoadedConfig
from megacontext.errors import ConfigError
from megacontext.evaluation.caches import CACHES, split_name
from megacontext.evaluation.comparison.matrix import LEAST_SEEDS, CompareConfig, Plan, TaskRun, ordered
from megacontext.evaluation.comparison.tuning import DEV_SEEDS, Tuned, load_tuned
from megacontext.evaluation.flags import note
from megacontext.evaluation.names import CONTROLS, FULL, GROUPS, ORACLE
from megacontext.evaluation.tasks import TASKS, check_name


def selected(loaded: LoadedConfig[CompareConfig], demo: DemoConfig, flags: argparse.Namespace) -> Plan:
    """The file, narrowed and widened by the flags. Raises ConfigError for a name not known."""
    config = loaded.config
    if flags.tune and flags.private_seed:
        raise ConfigError("--private-seed: those cases are for reported figures, --tune does not see them")
    models = tuple(str(Path(model).expanduser().absolute()) for model in flags.model or ())
    models = models or tuple(str(loaded.root / Path(model).expanduser()) for model in config.models)
    return Plan(
        models=tuple(dict.fromkeys(models)) or (demo.model.path,),
        budgets=_budgets(config, demo, flags),
        caches=_caches(config, flags),
        tasks=_tasks(config, flags),
        tuned=Tuned() if flags.tune or flags.untuned else _tuned(Path(config.tuned)),
        private=flags.private_seed,
        dev=flags.tune,
    )


def _budgets(config: CompareConfig, demo: DemoConfig, flags: argparse.Namespace) -> tuple[int, ...]:
    wanted = tuple(flags.budget or config.budgets)
    if wanted and any(assignment.startswith("memory.budget=") for assignment in flags.set):
        raise ConfigError("--set memory.budget: this comparison has budgets of its own; name others with --budget")
    return tuple(sorted(dict.fromkeys(wanted))) or (demo.memory.budget,)


def _caches(config: CompareConfig, flags: argparse.Namespace) -> tuple[str, ...]:
    named = tuple(flags.cache or config.caches)
    for name in named:
        check_name("cache", split_name(name)[0], [*CACHES, *GROUPS])
    if flags.tune:  # the loss of text is counted from full attention
        return ordered((FULL, *named), controls=False)
    names = ordered(named, controls=not flags.no_controls)
    added = [name for name in CONTROLS if name in names and name not in named]
    if added:
        note(f"added {', '.join(added)}: every table has them; --no-controls leaves them out")
    return names


def _tasks(config: CompareConfig, flags: argparse.Namespace) -> tuple[TaskRun, ...]:
    runs = config.tasks
    if flags.task:
        names = [check_name("task", name, list(TASKS)) for name in dict.fromkeys(flags.task)]
        runs = tuple(run for name in names for run in _runs_of(config, name))
    narrowed = {"caches": None} if flags.cache else {}
    narrowed |= {"budgets": None} if flags.budget else {}
    runs = tuple(run.model_copy(update=narrowed) for run in runs)
    if flags.seeds:
        if flags.seeds >= DEV_SEEDS:
            raise ConfigError(f"--seeds {flags.seeds}: seeds from {DEV_SEEDS} on are for --tune; ask for fewer")
        runs = tuple(run.model_copy(update={"seeds": flags.seeds}) for run in runs)
    few = [run.name for run in runs if run.seeds < LEAST_SEEDS]
    if few and not flags.tune:
        note(f"{', '.join(dict.fromkeys(few))}: fewer than {LEAST_SEEDS} seeds, so intervals say little")
    return runs


def _runs_of(config: CompareConfig, name: str) -> list[TaskRun]:
    return [run for run in config.tasks if run.name == name] or [TaskRun(name=name)]


def _tuned(path: Path) -> Tuned:
    if path.is_file():
        return load_tuned(path)
    note(f"no tuned settings at {path}: every method runs with its own defaults")
    return Tuned()


def explain_gaps(plan: Plan) -> None:
    """Say which rows the tables cannot have."""
    for name in dict.fromkeys(run.name for run in plan.tasks):
        if ORACLE in plan.caches and not TASKS[name].has_sources:
            note(f"{name}: no row for {ORACLE}, because nothing says which blocks are the right ones")
