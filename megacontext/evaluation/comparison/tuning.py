"""The settings that each method may try, and the choice among them, on episodes that no reported figure is of.

Every method has TRIALS settings, its own defaults (the paper's) first; other people's stand in the registry, ours here.
Development episodes have seeds from DEV_SEEDS on and a word of their own mixed into every draw, so that they share
neither facts nor places in the text with those of the test split. Knows nothing of running them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field

from megacontext.baselines.registry import METHODS
from megacontext.config import Section
from megacontext.config_loader import load_config
from megacontext.evaluation.caches import MEGACONTEXT, VARIANTS, split_name
from megacontext.evaluation.names import FULL, OURS
from nanochat.files import atomic_write

DEV_SEEDS = 10_000  # the first; a test split never goes so far
DEV, DEV_WORD = "dev", "development"
HEADING = (
    "What each method runs with: the best of its trials on the development split, by budget; other budgets take the",
    "nearest. Written by `python -m megacontext.evaluation.compare --tune`; the trials' rows say how each fared.",
)

Settings = Mapping[str, Any]

_OF_RECENCY: tuple[Settings, ...] = ({}, {"protect_first": 0}, {"protect_first": 2}, {"protect_first": 4})
_OF_OURS: tuple[Settings, ...] = (  # how the slots are shared between recent text and what was found
    {},
    {"prompt_recent_tokens": 0},
    {"prompt_recent_tokens": 0, "prompt_blocks": 2},
    {"prompt_recent_tokens": 256, "recent_tokens": 160},
)
_OF_FIXED: tuple[Settings, ...] = (*_OF_OURS[:2], {"prompt_recent_tokens": 320}, _OF_OURS[3])
# Of these what they are says how many blocks a prompt's end shows.
_OWN = {"recency": _OF_RECENCY, "oracle": _OF_FIXED, "gists_only": _OF_FIXED}


class Choice(Section):
    """What one method runs with at one budget. score: mean over the tasks, by which it was best; of: how many."""

    budget: int
    settings: dict[str, Any]
    score: float
    of: int


class Tuned(Section):
    """The choices, by method."""

    methods: dict[str, tuple[Choice, ...]] = Field(default_factory=dict)
    """Names of methods without changes in brackets; of each, one choice a budget."""

    def of(self, name: str, budget: int | None) -> dict[str, Any]:
        """Settings of the contender `name`: those chosen at the budget that is nearest in ratio; {} if none were.

        A variant of megacontext without a choice of its own has megacontext's: they differ in what its name says.
        """
        base = split_name(name)[0]
        choices = self.methods.get(base) or self.methods.get(MEGACONTEXT if base in VARIANTS else base, ())
        if not choices or budget is None:
            return {}
        nearest = min(choices, key=lambda choice: abs(log(choice.budget / budget)))
        return {key: _hashable(value) for key, value in nearest.settings.items()}


@dataclass(frozen=True)
class Tried:
    """One trial of a method at a budget. scores: one a task."""

    name: str
    budget: int
    settings: Settings
    scores: Sequence[float]

    @property
    def score(self) -> float:
        """Every task counts the same."""
        return fmean(self.scores)


def trials(name: str) -> tuple[Settings, ...]:
    """What the method `name` may try; the plain cache has nothing to set."""
    base = split_name(name)[0]
    if base in METHODS:
        return METHODS[base].trials
    return ({},) if base == FULL or base not in OURS else _OWN.get(base, _OF_OURS)


def worth(row: Mapping[str, Any]) -> float | None:
    """A trial's row as one figure in [0, 1] or a little above: the share of questions answered, or of the probability
    a token that full attention gives the text (exp of -delta_nll).
    """
    if row["accuracy"] is not None:
        return float(row["accuracy"])
    return None if row["delta_nll"] is None else exp(-row["delta_nll"])


def choose(tried: Iterable[Tried]) -> Tuned:
    """The best of each method and budget; of equals the one that was declared first."""
    by_place: dict[tuple[str, int], list[Tried]] = {}
    for one in tried:
        by_place.setdefault((one.name, one.budget), []).append(one)
    found: dict[str, tuple[Choice, ...]] = {}
    for (name, budget), candidates in sorted(by_place.items()):
        best = max(candidates, key=lambda one: round(one.score, 6))
        choice = Choice(budget=budget, settings=dict(best.settings), score=round(best.score, 4), of=len(candidates))
        found[name] = (*found.get(name, ()), choice)
    return Tuned(methods=found)


def load_tuned(path: str | Path) -> Tuned:
    """Raises ConfigError for a file that is none."""
    return load_config(path, Tuned, environ={}).config


def keep_best(rows: Iterable[Mapping[str, Any]], path: Path) -> str:
    """Put the best of these trials' rows into the file of choices, in place of older ones. Returns what it did."""
    best = choose(tried_in(rows)).methods
    before = load_tuned(path).methods if path.is_file() else {}
    after: dict[str, tuple[Choice, ...]] = dict(before)
    for name, choices in best.items():
        anew = {choice.budget for choice in choices}
        kept = (choice for choice in before.get(name, ()) if choice.budget not in anew)
        after[name] = tuple(sorted([*kept, *choices], key=lambda choice: choice.budget))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(written(Tuned(methods=after)).encode())
    return f"{path}: settings of {', '.join(best) or 'no method'}"


def tried_in(rows: Iterable[Mapping[str, Any]]) -> list[Tried]:
    """The trials that ran to the end on every task that the method ran on."""
    by_trial: dict[tuple[str, int, str], dict[tuple[str, int], Mapping[str, Any]]] = {}
    for row in rows:
        if row["split"] == DEV and row["budget"] is not None:
            key = (row["cache"], row["budget"], json.dumps(row["settings"], sort_keys=True))
            by_trial.setdefault(key, {})[row["task"], row["task_tokens"]] = row
    found = []
    for (name, budget, settings), mine in by_trial.items():
        others = [trial for (other, *_), trial in by_trial.items() if other == name]
        seeds = {task: max(trial[task]["seeds"] for trial in others if task in trial) for one in others for task in one}
        scores = {task: worth(row) for task, row in mine.items() if row["seeds"] == seeds[task]}
        known = {task: score for task, score in scores.items() if score is not None}
        if known.keys() == seeds.keys():
            found.append(Tried(name, budget, json.loads(settings), list(known.values())))
    return found


def written(tuned: Tuned) -> str:
    """As YAML."""
    lines = [*(f"# {text}" for text in HEADING), "methods:" if tuned.methods else "methods: {}"]
    for name, choices in sorted(tuned.methods.items()):
        lines.append(f"  {name}:")
        lines += [f"    - {json.dumps(choice.model_dump(mode='json'))}" for choice in choices]
    return "\n".join(lines) + "\n"


def _hashable(value: Any) -> Any:
    """YAML has lists where settings have tuples."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
