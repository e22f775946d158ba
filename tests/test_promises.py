"""Promises of the earlier notes that no other test shows: figures, and what a change has to pass. MIGRATION.md names
these tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from wandb_reading import recorded, rows_of

from megacontext.telemetry.metrics import METRICS
from tools.bootstrap import seeded_gpt2
from tools.bootstrap.environment import Environment
from tools.bootstrap.tiny_gpt2 import SEEDED

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


def test_without_uv_on_the_path_an_environment_is_made_by_venv_and_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier program left with exit code 1."""
    commands: list[list[str]] = []

    def call(self: Environment, command: list[str]) -> None:
        commands.append(command)
        if "venv" in command:
            (self.venv / "bin").mkdir(parents=True)

    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(Environment, "_call", call)
    monkeypatch.setattr(Environment, "_has", lambda *_: True)
    Environment(tmp_path, "dev").run()
    assert commands[0][:3] == [sys.executable, "-m", "venv"]
    assert all(command[1:4] == ["-m", "pip", "install"] for command in commands[1:])
    assert {"--require-hashes", str(tmp_path / "requirements" / "dev.txt")} <= set(commands[1])
    assert commands[-1][-2:] == ["--editable", str(tmp_path)]


def test_wandb_has_a_run_of_the_decode_demo_with_charts_of_latency_and_allocator(tmp_path: Path) -> None:
    """The runbook's command as it stands, with the runbook's variable, in a project as bootstrap leaves it offline."""
    for folder in ("configs", "artifacts/corpus"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "SampleText_TinyGPT2.yaml", tmp_path / "configs")
    seeded_gpt2.write(tmp_path / "artifacts" / "models" / SEEDED)
    (tmp_path / "artifacts" / "corpus" / "sample.txt").write_text("A long history wants a view of it. " * 70)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MEGACONTEXT_", "WANDB_", "HF_"))}
    done = subprocess.run(
        [sys.executable, "-m", "tools.decode_demo", "--config", "configs/SampleText_TinyGPT2.yaml"],
        cwd=tmp_path,
        env=kept | {"PYTHONPATH": str(ROOT), "MEGACONTEXT_ENABLE_WANDB": "1", "WANDB_MODE": "offline"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("MegaContext> ")
    (log,) = (tmp_path / "artifacts" / "run_logs").glob("SampleText_TinyGPT2-*.log")
    run = recorded(log.parent)
    assert (run.name, run.project) == (f"decode_demo/{log.stem.partition('-')[2]}", "megacontext-poc")
    assert run.rows == rows_of(log)
    charts = {key for row in run.rows for key in row}
    assert {"allocator/swap_rate", "allocator/residency", "latency/total", "quality/delta_nll"} <= charts
    assert run.config["base_model"]["name"] == "sshleifer/tiny-gpt2"
