"""Reads W&B runs back from the files that wandb wrote, and says what an event log wants to find there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

GROUPS = {"latency_ms": "latency", "latency_p95_ms": "latency", "baseline_ms": "latency"} | dict.fromkeys(
    ("delta_nll", "delta_nll_baseline", "delta_nll_ms"), "quality"
)
ENVELOPE = ("v", "seq", "time", "type", "run")


class Recorded(NamedTuple):
    """One offline run. rows: in their order, less what wandb adds. axes: from a pattern of keys to its step metric."""

    name: str
    project: str
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    axes: dict[str, str]
    exit_code: int


def recorded(logs: Path) -> Recorded:
    """The only run in `<logs>/wandb`, an offline one, once its last record is there."""
    (folder,) = [path for path in (logs / "wandb").iterdir() if path.is_dir() and not path.is_symlink()]
    assert folder.name.startswith("offline-run-")
    (path,) = folder.glob("*.wandb")
    found = records(path)
    until = time.monotonic() + 10
    while found[-1]["type"] != "exit" and time.monotonic() < until:  # finish() may return before the file is complete
        time.sleep(0.1)
        found = records(path)
    return _sorted_out(found)


def records(path: Path) -> list[dict[str, Any]]:
    """What `wandb leet inspect` prints of a .wandb file."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _sorted_out(found: list[dict[str, Any]]) -> Recorded:
    of = {kind: [record[kind] for record in found if record["type"] == kind] for kind in {r["type"] for r in found}}
    (run,), (end,) = of["run"], of["exit"]
    config = dict(run["config"]["update"])
    for change in of.get("config", []):
        config |= change["update"]
    summary: dict[str, Any] = {}
    for change in of["summary"]:
        summary |= change["update"]
    rows = [_ours(row["item"]) for row in of.get("history", [])]
    axes = {metric["glob_name"]: metric["step_metric"] for metric in of["metric"] if "glob_name" in metric}
    return Recorded(run["display_name"], run["project"], config, rows, _ours(summary), axes, end["exit_code"])


def _ours(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if not key.startswith("_")}


def rows_of(log: Path) -> list[dict[str, Any]]:
    """The rows that W&B must have, from an event log: every number of every tick and turn, in the log's order."""
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [_row(event) for event in events if event["type"] in ("tick", "turn")]


def _row(event: dict[str, Any]) -> dict[str, Any]:
    axis = event["type"]
    row = {axis: event[axis]}
    for name in event.keys() - {*ENVELOPE, axis}:
        group = "turn" if axis == "turn" else GROUPS.get(name, "allocator")
        for key, value in _keys(name, event[name], axis):
            if isinstance(value, (int, float)) or key == "delta_nll_baseline":
                row[f"{group}/{key}"] = value
    return row


def _keys(name: str, value: Any, axis: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(name, value)]
    if axis == "tick" and name == "latency_ms":
        return list(value.items())
    if axis == "tick" and name == "latency_p95_ms":
        return [(f"{part}_p95", item) for part, item in value.items()]
    return [(f"{name}/{part}", item) for part, item in value.items()]
