"""Rows as `compare` writes them, of figures that a test chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megacontext.evaluation.comparison.summary import summarise

Figures = Mapping[int, Sequence[float]]  # by seed


def episode(seed: int, *, right: Sequence[float] = (), nats: Sequence[float] = (), **changes: Any) -> dict[str, Any]:
    """One of questions if `right` says which were, else of running text."""
    losses = list(nats) or [1.0] * len(right)
    return {
        **{"seed": seed, "accuracy": sum(right) / len(right) if right else None, "kl": None},
        **{"nll": sum(losses) / len(losses), "items": list(right) or losses, "item_nll": losses, "groups": {}},
        **{"history_tokens": 5998 + seed, "slots": 500, "read_slots": 400, "bytes": 20_000_000, "tokens": 64},
        **{"disk_bytes": None, "selection_flops": 2_500_000_000, "seconds": 3.0, "cpu_seconds": 2.0, **changes},
    }


def row(cache: str, budget: int | None, episodes: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """full: the plain cache's row, for the difference to it."""
    full = changes.pop("full", None)
    identity = {
        **{"cache": cache, "task": "late_recall", "task_tokens": 6000, "budget": budget, "settings": {}},
        **{"split": "test", "private": None, "model": "tiny", "dtype": "bfloat16", "device": "cpu", "threads": 1},
        **{"texts": {"sample.txt": "551dc14dd16eefb4"}, "config": "bench", **changes},
    }
    run = json.dumps([cache, budget, *(identity[name] for name in ("task", "split", "model", "texts", "settings"))])
    return {**identity, "run": run, **summarise(episodes, full)}


def recall_rows(**right: Figures) -> list[dict[str, Any]]:
    """Rows of a recall task at 512 slots, by memory; `full` has no budget."""
    return [
        row(name, None if name == "full" else 512, [episode(s, right=r) for s, r in figures.items()])
        for name, figures in right.items()
    ]


def text_rows(full: Figures, group: str = "", **nats: Figures) -> list[dict[str, Any]]:
    """Rows of running text at 512 slots, with the distance to `full`. group: the part of which all is, by seed."""

    def episodes(figures: Figures) -> list[dict[str, Any]]:
        return [episode(s, nats=n, groups={group.format(s): list(n)} if group else {}) for s, n in figures.items()]

    task = {"task": "plain_text_six", "task_tokens": 6144}
    first = row("full", None, episodes(full), **task)
    first = row("full", None, episodes(full), full=first, **task)
    return [first, *(row(name, 512, episodes(f), full=first, **task) for name, f in nats.items())]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
