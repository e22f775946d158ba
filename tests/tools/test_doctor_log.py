"""The doctor on event logs: what it finds in a sick one, and that it finds nothing in a healthy chat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from megacontext.config import MemoryConfig
from megacontext.telemetry.events import (
    Collapse,
    Error,
    Event,
    Expand,
    MemoryOpened,
    ModelLoaded,
    RunEnd,
    RunStart,
    Tick,
    Turn,
    Warning_,
)
from megacontext.telemetry.metrics import METRICS
from megacontext.telemetry.sinks import JsonlSink
from tools import doctor
from tools.diagnosis import log as logs
from tools.diagnosis.finding import Finding

ROOT = Path(__file__).resolve().parents[2]
START = RunStart(program="chat", config={"memory": MemoryConfig().model_dump(mode="json")})
END = RunEnd(exit_code=0, seconds=1.0)


def tick(number: int, *, active: int = 992, budget: int = 1024, **changes: Any) -> Tick:
    """A healthy tick, but for the changes."""
    slots = {"active_slots": active, "working_budget": budget, "utilization": round(active / budget, 4)}
    figures = {"reason": "text", "history_tokens": 9000, "swap_rate": 0.1, "residency": 0.95}
    return Tick(tick=number, **{**slots, **figures, **changes})


def prompt(number: int, **changes: Any) -> Tick:
    """A prompt's end as it is: few pages stay."""
    return tick(number, **{"reason": "prompt", "active": 560, "residency": 0.61, "swap_rate": 0.6, **changes})


def turn(generated: int = 20, stop: str = "stop") -> Turn:
    return Turn(turn=1, prompt_tokens=20, generated_tokens=generated, history_tokens=9040, stop=stop)


def edit(kind: type[Expand] | type[Collapse], number: int, start: int = 64, reason: str = "text") -> Event:
    levels = (1, 0) if kind is Expand else (0, 1)
    return kind(tick=number, start=start, end=start + 32, from_level=levels[0], to_level=levels[1], reason=reason)


def write(folder: Path, events: Iterable[Event]) -> Path:
    sink = JsonlSink(folder, "run")
    for event in events:
        sink.emit(event)
    sink.close()
    return sink.path


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., list[Finding]]:
    """What is found in a log of these events, between a start and an end."""

    def findings(*events: Event) -> list[Finding]:
        return list(logs.examine(logs.read(write(tmp_path, [START, *events, END]))))

    return findings


def of(found: Sequence[Finding], check: str) -> Finding:
    return next(finding for finding in found if finding.check == check)


def troubles(found: Sequence[Finding]) -> list[str]:
    return [finding.check for finding in found if finding.state != "ok"]


# --- the memory's figures ---


@pytest.mark.parametrize(
    ("name", "changes", "setting"),
    [
        ("residency", {"residency": 0.55}, "memory.hysteresis"),
        ("swap_rate", {"swap_rate": 0.62}, "memory.max_edits"),
        ("utilization", {"active": 420}, "memory.far_blocks"),
        ("delta_nll", {"delta_nll": 0.31}, "memory.budget"),
    ],
)
def test_a_figure_outside_its_band_is_found_with_place_band_and_remedy(
    look: Callable[..., list[Finding]], name: str, changes: dict[str, Any], setting: str
) -> None:
    sick = tick(1, **{"delta_nll": 0.02, **changes})
    found = look(tick(0, delta_nll=0.01), sick, tick(2))
    assert troubles(found) == [name]
    finding = of(found, name)
    assert (finding.state, finding.tick, finding.seq) == ("warn", 1, 2)
    assert finding.value == getattr(sick, name)
    assert finding.band == str(METRICS[name].tolerable)
    assert finding.band in finding.what
    assert setting in finding.remedy


def test_what_is_tolerable_is_no_trouble(look: Callable[..., list[Finding]]) -> None:
    assert troubles(look(tick(0, residency=0.81, swap_rate=0.49, active=620, delta_nll=0.14))) == []


def test_the_worst_of_several_is_shown_and_all_are_counted(look: Callable[..., list[Finding]]) -> None:
    finding = of(look(tick(0, residency=0.5), tick(1, residency=0.2), tick(2, residency=0.4), tick(3)), "residency")
    assert (finding.value, finding.tick) == (0.2, 1)
    assert "3 of 4 lines" in finding.what


def test_a_prompts_end_may_show_little_and_swap_much(look: Callable[..., list[Finding]]) -> None:
    found = look(tick(0), prompt(1, delta_nll=0.4), turn(), tick(2, active=880, residency=0.71), prompt(3), turn())
    assert troubles(found) == []


def test_after_a_prompt_the_view_may_take_its_time_to_fill(look: Callable[..., list[Finding]]) -> None:
    low: dict[str, Any] = {"active": 590}
    assert troubles(look(prompt(0), turn(), tick(1, history_tokens=9030, **low))) == []
    late = look(prompt(0), turn(), tick(1, history_tokens=9300, **low), tick(2, history_tokens=9600, **low))
    assert troubles(late) == ["utilization"]
    assert of(late, "utilization").tick == 2


def test_while_an_answer_runs_its_view_must_stand_still(look: Callable[..., list[Finding]]) -> None:
    moving = look(prompt(0), tick(1, residency=0.76), turn())
    assert troubles(moving) == ["residency"]
    assert troubles(look(prompt(0), turn(), tick(1, residency=0.76))) == []  # text flows: eight new blocks a tick


def test_what_follows_text_is_allowed_only_as_much_as_was_measured(look: Callable[..., list[Finding]]) -> None:
    least = 1 - MemoryConfig().max_edits * 32 / 992
    assert troubles(look(tick(0, residency=round(least, 4)))) == []
    assert "the view follows it" in of(look(tick(0, residency=round(least, 4))), "residency").what
    assert troubles(look(tick(0, residency=round(least - 0.01, 4)))) == ["residency"]


def test_a_small_budget_has_room_for_few_newcomers(look: Callable[..., list[Finding]]) -> None:
    memory = MemoryConfig()
    budget = (memory.protect_first + 1 + 5) * memory.block + memory.recent_tokens  # five far blocks beside the ends
    small: dict[str, Any] = {"budget": budget, "active": budget - 20}
    stays = 1 - 5 * memory.block / (budget - 20)
    assert troubles(look(tick(0, residency=stays, **small))) == []
    assert troubles(look(tick(0, residency=stays - 0.05, **small))) == ["residency"]


def test_utilization_counts_once_history_exceeds_the_budget(look: Callable[..., list[Finding]]) -> None:
    growing = [tick(i, history_tokens=100 * i, active=100 * i) for i in range(1, 10)]
    assert troubles(look(*growing)) == []
    first = look(tick(0, ticks=32, history_tokens=1100, utilization=0.52))  # a sum of ticks while it filled
    assert troubles(first) == []


def test_a_first_overflow_may_make_much_room_at_once(look: Callable[..., list[Finding]]) -> None:
    found = look(
        tick(0, history_tokens=1000), prompt(1, history_tokens=1000), tick(2, history_tokens=1025, swap_rate=0.55)
    )
    assert troubles(found) == []


def test_a_conversation_is_judged_by_itself(look: Callable[..., list[Finding]]) -> None:
    """One log holds several where /load and /fork were used."""
    other = MemoryOpened(cache="megacontext", working_budget=1024, session="other")
    young = [other, tick(0, history_tokens=90, active=90), prompt(1, history_tokens=90)]
    assert troubles(look(tick(0), prompt(1), turn(), *young, turn())) == []
    moving = [tick(2, history_tokens=9100, residency=0.76), turn()]
    assert troubles(look(tick(0), prompt(1), other, *moving)) == []  # text flows: no answer was begun in this one
    swing = [edit(Expand, 1), edit(Collapse, 2), tick(2)]
    assert troubles(look(*swing, other, edit(Expand, 3), tick(3))) == []


def test_a_view_over_its_budget_fails(look: Callable[..., list[Finding]]) -> None:
    finding = of(look(prompt(0, active=1040)), "utilization")
    assert finding.state == "fail"
    assert "defect" in finding.remedy


def test_a_log_without_a_tick_is_healthy(look: Callable[..., list[Finding]]) -> None:
    found = look(turn())
    assert troubles(found) == []
    assert "nothing had to leave" in of(found, "memory").what


def test_figures_that_were_not_computed_are_not_judged(look: Callable[..., list[Finding]]) -> None:
    assert troubles(look(Tick(tick=0), Tick(tick=1, reason="text"))) == []


# --- edits ---


def test_a_span_that_comes_goes_and_comes_again_is_an_oscillation(look: Callable[..., list[Finding]]) -> None:
    found = look(edit(Expand, 10), tick(10), edit(Collapse, 12), tick(12), edit(Expand, 15), tick(15))
    assert troubles(found) == ["oscillation"]
    finding = of(found, "oscillation")
    assert (finding.tick, finding.seq) == (15, 5)
    assert "[64, 96)" in finding.what
    assert "memory.cooldown: 6" in finding.remedy


def test_a_span_that_comes_back_later_or_by_a_prompt_is_none(look: Callable[..., list[Finding]]) -> None:
    later = look(edit(Expand, 10), tick(10), edit(Collapse, 12), tick(12), edit(Expand, 16), tick(16))
    by_prompt = look(
        *(edit(Expand, 10), tick(10), edit(Collapse, 11, reason="prompt"), prompt(11), turn()),
        *(edit(Expand, 12), tick(12), edit(Collapse, 13, reason="prompt, forced by the budget"), prompt(13), turn()),
    )
    assert troubles(later) == troubles(by_prompt) == []


def test_what_sums_of_ticks_hide_is_told(look: Callable[..., list[Finding]]) -> None:
    found = look(edit(Expand, 9), tick(9, ticks=10, num_expand=7, num_collapse=6, transient=[128, 160]))
    assert troubles(found) == []
    assert "up to 4 of 7 expansions opened a block once more" in of(found, "oscillation").what


def test_a_span_that_is_collapsed_again_and_again_is_found(look: Callable[..., list[Finding]]) -> None:
    found = look(*(edit(Collapse, number) for number in (3, 7, 11)), tick(11))
    assert troubles(found) == ["collapses"]
    assert of(found, "collapses").tick == 11
    assert "memory.hysteresis" in of(found, "collapses").remedy
    assert troubles(look(*(edit(Collapse, number) for number in (3, 30, 70)), tick(70))) == []
    assert troubles(look(*(edit(Collapse, 3, start) for start in (64, 96, 128)), tick(3))) == []


# --- the run ---


def test_warnings_are_told_once_with_their_hint(look: Callable[..., list[Finding]]) -> None:
    lesser = Warning_(message="W&B: no API key", hint="set WANDB_API_KEY")
    found = look(lesser, lesser, Warning_(message="slow"))
    assert troubles(found) == ["warning", "warning"]
    assert (of(found, "warning").what, of(found, "warning").remedy) == (
        "W&B: no API key (2 times)",
        "set WANDB_API_KEY",
    )


def test_an_error_fails_and_a_bug_is_told_from_what_a_user_can_mend(look: Callable[..., list[Finding]]) -> None:
    bug, known = Error(kind="IndexError", message="list\nindex"), Error(kind="BudgetError", message="set 640 or more")
    found = [finding for finding in look(bug, known) if finding.check == "error"]
    assert [finding.state for finding in found] == ["fail", "fail"]
    assert found[0].what == "IndexError: list index"
    assert "the traceback is in the log, seq 1" in found[0].remedy
    assert "as the message says" in found[1].remedy


def test_an_interrupted_run_is_a_warning(tmp_path: Path) -> None:
    found = list(logs.examine(logs.read(write(tmp_path, [START, tick(0)]))))
    assert troubles(found) == ["run"]
    assert "no run_end: interrupted after tick" in of(found, "run").what


def test_a_torn_last_line_is_a_warning_and_the_rest_counts(tmp_path: Path) -> None:
    path = write(tmp_path, [START, tick(0, residency=0.3), END])
    path.write_bytes(path.read_bytes()[:-9])
    found = list(logs.examine(logs.read(path)))
    assert troubles(found) == ["log end", "run", "residency"]


def test_figures_that_disagree_and_lines_that_are_missing_are_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path, [START, tick(0), tick(1, residency=0.3), END])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))
    found = list(logs.examine(logs.read(path)))
    assert troubles(found) == ["log figures", "residency"]
    assert "line 2: seq: 2, this line must have 1" in of(found, "log figures").what


def test_lines_that_are_no_events_fail_and_the_others_are_judged(tmp_path: Path) -> None:
    path = write(tmp_path, [START, tick(0, residency=0.3), END])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"{}\n", *lines[1:]]))
    found = list(logs.examine(logs.read(path)))
    assert troubles(found) == ["log lines", "log figures", "residency"]
    assert "line 2: " in of(found, "log lines").what
    assert "tools.validate_log" in of(found, "log lines").remedy


@pytest.mark.parametrize(
    "content", [b"", b"2025-01-31 12:00:00 INFO [megacontext] Starting decode demo\n", b"\xff" * 40]
)
def test_a_file_that_is_no_event_log_is_told_as_such(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.log"
    path.write_bytes(content)
    assert {"log lines", "log end"} & set(troubles(list(logs.examine(logs.read(path)))))


def test_a_run_that_failed_without_an_error_is_told(tmp_path: Path) -> None:
    found = list(logs.examine(logs.read(write(tmp_path, [START, RunEnd(exit_code=1, seconds=1.0)]))))
    assert of(found, "run").what == "exit code 1, and no error in the log"
    by_hand = list(logs.examine(logs.read(write(tmp_path, [START, RunEnd(exit_code=130, seconds=1.0)]))))
    assert troubles(by_hand) == []


def test_empty_replies_are_found(look: Callable[..., list[Finding]]) -> None:
    found = look(turn(0), turn(0, "read"), turn(0, "interrupted"), turn())
    assert of(found, "replies").what == "1 of 4 replies are empty"


def test_a_made_up_model_is_told(look: Callable[..., list[Finding]]) -> None:
    loaded = ModelLoaded(name="tiny-gpt2-seeded", fingerprint="f", load_ms=1.0, summary={"seeded": 42})
    assert "made up: random weights (seed 42)" in of(look(loaded), "model").what


# --- which log ---


def test_the_newest_log_is_found(tmp_path: Path) -> None:
    old, new = write(tmp_path, [START]), write(tmp_path, [START])
    os.utime(old, (1, 1))
    assert logs.newest(tmp_path) == new
    assert of(list(doctor.of_log(tmp_path, "latest")), "log").what.startswith(f"{new}: chat; 1 run_start")


def test_no_log_at_all_fails_with_what_to_do(tmp_path: Path) -> None:
    (finding,) = doctor.of_log(tmp_path / "nothing", "latest")
    assert finding.state == "fail"
    assert "there is no event log" in finding.what


@pytest.mark.slow
@pytest.mark.needs_model
def test_a_healthy_chat_of_the_demo_model_has_no_finding(tmp_path: Path) -> None:
    """It reads a text of more than twice the budget, is told a fact, talks of something else, and is asked for it."""
    corpus = (ROOT / "artifacts" / "corpus" / "sample.txt").read_text(encoding="utf-8")
    (tmp_path / "text.txt").write_text(corpus[:11_000], encoding="utf-8")
    said = ["My dog is called Biscuit.", "Tell me about the sea.", "What can I cook?", "What is my dog called?"]
    prompts = [flag for text in said for flag in ("-p", text)]
    command = [sys.executable, "-m", "nanochat.chat", "--ephemeral", "--log-dir", str(tmp_path / "logs")]
    command += ["--set", "telemetry.delta_nll=exact", "--set", "telemetry.delta_nll_every=24", "--max-tokens", "48"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, "--read", str(tmp_path / "text.txt"), *prompts], cwd=ROOT, env=settings, check=True, timeout=280
    )
    (path,) = (tmp_path / "logs").glob("*.log")
    found = list(logs.examine(logs.read(path)))
    kinds = {json.loads(line)["type"] for line in path.read_text(encoding="utf-8").splitlines()}
    assert {"expand", "collapse", "tick", "turn", "run_end"} <= kinds
    assert troubles(found) == [], [finding for finding in found if finding.state != "ok"]
    assert {"residency", "swap_rate", "utilization", "oscillation", "delta_nll"} <= {finding.check for finding in found}
