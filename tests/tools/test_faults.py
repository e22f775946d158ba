"""The fault programme at a small scale: every row runs, its line can be read, and what is lost ends it with 1."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import faults
from tools.fault_programme.row import Outcome

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"faults [\d,]+ injected, [\d,]+ survived; [\d,]+ kill -9 \([\d,]+ torn tails\); fuzz .+; 0 lost\n")


@pytest.mark.slow
@pytest.mark.parametrize("row", faults.ROWS)
def test_nothing_is_lost(row: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert faults.main(["--only", row, "--scale", "0.02", "--json"]) == 0
    said = capsys.readouterr()
    outcome = json.loads(said.out)
    assert outcome["row"] == row
    assert outcome["faults"] + outcome["kills"] + sum(outcome["fuzzed"].values()) > 0 or outcome["said"]
    assert outcome["survived"] == outcome["faults"]
    assert LINE.search(said.err)


def test_what_is_lost_is_named_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lossy = Outcome(
        faults=3, survived=2, kills=4, torn=1, fuzzed={"a": 5, "b": 7}, missing=1, lost=["page 3 is another"]
    )
    monkeypatch.setattr(faults, "run_row", lambda *_: lossy)
    assert faults.main(["--only", "damage", "--seed", "9"]) == 1
    said = capsys.readouterr()
    assert said.out == "faults 3 injected, 2 survived; 4 kill -9 (1 torn tails); fuzz 2 x 5; 1 lost\n"
    assert "lost, seed 9: page 3 is another" in said.err


def test_help_needs_nothing_but_the_standard_library() -> None:
    done = subprocess.run([sys.executable, "-m", "tools.faults", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert all(row in done.stdout for row in faults.ROWS)
