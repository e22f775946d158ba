"""Promises of the earlier notes that no other test shows: figures, and what a change has to pass. MIGRATION.md names
these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacontext.telemetry.metrics import METRICS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("name", "healthy", "tolerable", "investigate"),
    [
        ("delta_nll", (-0.5, 0.1), (0.11, 0.15), (0.16,)),
        ("swap_rate", (0, 0.05, 0.25), (0.26, 0.5), (0.51,)),
        ("mean_residency_ticks", (3, 100), (), (2.9,)),
        ("utilization", (0.8, 1.0), (0.6, 0.79), (0.59, 1.01)),
        ("residency", (0.9, 1.0), (0.8, 0.89), (0.79,)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_metrics_bands_are_those_of_the_notes(
    name: str, healthy: tuple[float, ...], tolerable: tuple[float, ...], investigate: tuple[float, ...]
) -> None:
    for verdict, values in (("healthy", healthy), ("tolerable", tolerable), ("investigate", investigate)):
        assert {METRICS[name].judge(value) for value in values} <= {verdict}


def test_the_gate_runs_linter_suite_and_migration_check() -> None:
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    lines = [line.strip() for line in gate.splitlines() if line and not line.startswith("#")]
    assert "set -euo pipefail" in lines
    assert "make lint" in lines
    assert any(line.endswith("make test") and "--junitxml=$results" in line for line in lines)
    assert lines[-1].endswith('-m tools.migration_status --check --results "$results"')
