"""The fault programme: every row runs at a small scale, its line can be read, and harm that is done is noticed."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tools import faults
from tools.fault_programme import forks, fuzz, kill_writers, mutate, power, power_cuts
from tools.fault_programme.failing_os import Call, FailingOS, Fault
from tools.fault_programme.fuzz_target import JSON, Target
from tools.fault_programme.row import Outcome, Plan

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(
    r"faults ([\d,]+) injected, ([\d,]+) survived; ([\d,]+) kill -9 \(([\d,]+) torn tails\); "
    r"fuzz [\d,]+ x [\d,]+( \+ [\d,]+ x [\d,]+)*; 0 lost\n"
)
needs_fork = pytest.mark.skipif(not forks.CAN_FORK, reason="needs a system that forks")


# --- the programme ---


@pytest.mark.slow
def test_a_small_programme_loses_nothing_and_says_so_in_one_line() -> None:
    command = [sys.executable, "-m", "tools.faults", "--scale", "0.01", "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    line = LINE.fullmatch(done.stdout)
    assert line, done.stdout
    assert line[1] == line[2]
    assert done.stderr.startswith("seed 3, scale 0.01\n")
    rows = [told.split()[0] for told in done.stderr.splitlines()[1:]]
    assert sorted(rows) == sorted(faults.ROWS)
    assert forks.CAN_FORK is False or "left out" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("row", ["damage", "kill_writers"])
def test_a_row_by_itself_gives_its_figures_as_json(row: str) -> None:
    command = [sys.executable, "-m", "tools.faults", "--only", row, "--scale", "0.004", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    outcome = Outcome(**found["rows"][row])
    assert found["summary"] == faults.summary([outcome])
    assert outcome.survived == outcome.faults
    assert outcome.said
    assert outcome.faults + outcome.kills > 0


def test_what_is_lost_is_named_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lossy = Outcome(
        faults=3, survived=2, kills=4, torn=1, fuzzed={"a": 5, "b": 7, "c": 7}, missing=1, lost=["page 3 is another"]
    )
    monkeypatch.setattr(faults, "run_row", lambda *_: lossy)
    assert faults.main(["--only", "damage", "--seed", "9"]) == 1
    said = capsys.readouterr()
    assert said.out == "faults 3 injected, 2 survived; 4 kill -9 (1 torn tails); fuzz 2 x 7 + 1 x 5; 1 lost\n"
    assert "seed 9" in said.err
    assert "1 LOST" in said.err
    assert "page 3 is another" in said.err


def test_a_row_that_cannot_end_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "ROOT", ROOT / "tests")  # where there is no such module
    outcome = faults.run_apart("damage", 0.01, 0)
    assert outcome.missing == 1
    assert "the row itself ended with exit code 1" in outcome.lost[0]


def test_the_files_of_a_row_stay_if_something_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(plan: Plan) -> Outcome:
        (plan.folder / "proof").write_text(plan.name)
        outcome = Outcome()
        outcome.fault("" if plan.seed else "a turn is lost")
        return outcome

    monkeypatch.setattr("tools.fault_programme.damage.run", row)
    folder = Path(faults.run_row("damage", 1.0, 0).lost[-1].removeprefix("the files are in "))
    assert (folder / "proof").read_text() == "damage"
    assert not faults.run_row("damage", 1.0, 1).lost
    (folder / "proof").unlink()
    folder.rmdir()


def test_help_needs_nothing_but_the_standard_library() -> None:
    probe = "import sys; from tools.faults import build_parser; build_parser().format_help(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pydantic", "rich", "hypothesis"} & set(done.stdout.split())


@pytest.mark.parametrize("flags", [["--scale", "0"], ["--only", "nothing"], ["--seed", "x"]])
def test_senseless_flags_are_a_usage_error(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        faults.main(flags)
    assert left.value.code == 2


# --- harm that is done is noticed ---


@needs_fork
@pytest.mark.parametrize(
    ("parse", "told"),
    [
        (lambda data: json.loads(data)["a"][0], "TypeError|KeyError|IndexError"),
        (lambda data: os.kill(os.getpid(), signal.SIGSEGV), f"exit code -{signal.SIGSEGV}; input 0"),
        (lambda data: [bytes(1 << 24) for _ in range(200)], "MemoryError"),
        (lambda data: _work(1.1), r"1\.[1-9] s for"),
        (lambda data: os._exit(3), "exit code 3; input 0"),
    ],
)
def test_a_parser_that_fails_in_any_other_way_than_it_says_is_told(parse: Callable[[bytes], Any], told: str) -> None:
    target = Target("toy", [b'{"a": [1, 2]}'], parse, (ValueError,), tree=JSON)
    assert re.search(told, fuzz._fuzzed(target, 300, 1))


def _work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@needs_fork
def test_a_parser_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "MOST_WAIT", 1)
    target = Target("toy", [b"x"], lambda data: time.sleep(60), (ValueError,))
    assert f"exit code -{signal.SIGALRM}; input 0" in fuzz._fuzzed(target, 300, 1)


@needs_fork
def test_a_parser_that_is_right_is_no_loss() -> None:
    assert fuzz._fuzzed(Target("toy", [b"[1]"], json.loads, (ValueError, RecursionError)), 500, 1) == ""


@needs_fork
def test_a_log_that_acknowledges_what_it_does_not_write_is_found_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("megacontext.tree.token_log.TokenLog.sync", lambda log: None)
    monkeypatch.setattr(kill_writers, "LONGEST_LIFE", 0.05)
    outcome = kill_writers.run(Plan("kill_writers", tmp_path, 0.02))
    assert outcome.kills == 20
    assert outcome.missing > 0
    assert "tokens were acknowledged" in outcome.lost[0]


@pytest.mark.slow
@pytest.mark.skipif(not power.CAN_CUT, reason="needs Linux")
def test_turns_that_are_told_before_they_are_synced_are_found_out_by_a_power_cut(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from megacontext.tree.token_log import TokenLog

    monkeypatch.setattr(TokenLog, "sync", TokenLog.flush)
    outcome = power_cuts.run(Plan("power_cuts", tmp_path, 0.1))
    assert outcome.faults > 3
    assert outcome.missing > 0
    assert outcome.lost[0].startswith("cut ")  # names the cut and its seed, so that it can be done again


def test_a_reader_that_believes_everything_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tools.fault_programme import damage
    from tools.fault_programme.damage_targets import turn_file

    monkeypatch.setattr("megacontext.tree.turn_file._checksum", lambda body: "00000000")
    monkeypatch.setattr(damage, "targets", lambda folder, size: iter([turn_file(size)]))
    outcome = damage.run(Plan("damage", tmp_path, 0.2))
    assert 0 < outcome.survived < outcome.faults
    assert "turns.jsonl with bit" in outcome.lost[0]


# --- its tools ---


def test_the_same_seed_draws_the_same_and_another_one_does_not(tmp_path: Path) -> None:
    draws = [Plan("fuzz", tmp_path, 1.0, seed).rng("x").random() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    target = Target("toy", [b'{"a": 1}', b"[2]"], json.loads, (ValueError,), [b"null"], tree=JSON)
    made = [[data for _, data in zip(range(200), fuzz.inputs(target, seed), strict=False)] for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    assert len(set(made[0])) > 100


def test_changes_of_json_values_stay_json_values() -> None:
    rng, seed = Random(0), {"a": [1, {"b": None}], "c": "x"}
    changed = [mutate.mutated_json(seed, rng) for _ in range(500)]
    assert seed == {"a": [1, {"b": None}], "c": "x"}
    assert len({json.dumps(value) for value in changed}) > 200
    assert next(value for value in mutate.JUNK if isinstance(value, list)) == []


@pytest.mark.skipif(not power.CAN_CUT, reason="needs Linux")
def test_a_power_cut_takes_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    """Over many draws: each state that may be found is found, and no other."""
    found = {_after_a_cut(tmp_path / str(seed), Random(seed)) for seed in range(60)}
    logs = {b"synced", b"synced, more", b"synced, more, last", b"synced" + bytes(6) + b", last"}
    assert {log for log, _ in found} == logs
    assert {names for _, names in found} == {"a log", "a log made", "b log made"}


def _after_a_cut(folder: Path, rng: Random) -> tuple[bytes, str]:
    """What a log is, and which files there are, after a cut of a little work."""
    (folder / "aside").mkdir(parents=True)
    (folder / "a").write_bytes(b"old")
    unsynced = power.Unsynced(folder / "aside")

    def call(name: str, *args: Any) -> Any:
        unsynced.note(name, args)
        return getattr(os, name)(*args)

    log = call("open", folder / "log", os.O_RDWR | os.O_CREAT, 0o600)
    call("write", log, b"synced")
    call("fsync", log)
    above = os.open(folder, os.O_RDONLY)
    call("fsync", above)
    call("write", log, b", more")
    call("write", log, b", last")
    made = call("open", folder / "made", os.O_RDWR | os.O_CREAT, 0o600)
    call("replace", folder / "a", folder / "b")
    unsynced.cut(rng)
    for descriptor in (log, above, made):
        os.close(descriptor)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    return (folder / "log").read_bytes(), " ".join(names)


class Met(Exception):
    """Instead of the end of the process."""


@pytest.fixture
def log_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Call]]:
    """Writes a token log on a failing system -> the calls that were met."""
    from megacontext.tree.token_log import TokenLog

    def end() -> None:
        raise Met

    monkeypatch.setattr("tools.fault_programme.failing_os.end_here", end)

    def write(decide: Callable[[Call], Fault | None] = lambda call: None) -> list[Call]:
        calls: list[Call] = []
        with FailingOS(lambda call: (calls.append(call), decide(call))[1], tmp_path).installed():
            log = TokenLog.open(tmp_path / "log" / "tokens.log", vocab=9, fingerprint="f")
            try:
                for token in range(3):
                    log.append([token])
                    log.sync()
            finally:
                os.close(log._descriptor)
                log._lock.release()
        return calls

    return write


def test_every_call_of_the_packages_has_a_site_and_a_number(log_writes: Callable[..., list[Call]]) -> None:
    calls = log_writes()
    assert [call.number for call in calls] == list(range(len(calls)))
    assert {"token_log._open: replace", "token_log.sync: fsync"} <= {call.site for call in calls}
    assert calls[0].name == "mkdir"
    writes = [call for call in calls if call.site == "token_log._write: write"]
    assert [call.nth for call in writes] == list(range(1, 7))
    assert all(call.size > 0 for call in writes)


def test_a_fault_meets_the_very_call_that_was_chosen(log_writes: Callable[..., list[Call]], tmp_path: Path) -> None:
    from megacontext.errors import StoreError

    def at(site: str, nth: int, fault: Fault) -> Callable[[Call], Fault | None]:
        return lambda call: fault if (call.site, call.nth) == (site, nth) else None

    write = "token_log._write: write"
    with pytest.raises(StoreError, match="No space left"):
        log_writes(at(write, 3, Fault("error", errno.ENOSPC)))
    size = (tmp_path / "log" / "tokens.log").stat().st_size
    with pytest.raises(Met):
        log_writes(at(write, 1, Fault("within")))
    assert 0 < (tmp_path / "log" / "tokens.log").stat().st_size - size < 32
    log_writes(at(write, 2, Fault("short")))
