"""The chat's small parts: meter, flags, harmless text."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

from megacontext.config import DemoConfig
from megacontext.config_loader import field_names, parse_override
from megacontext.context import WorkingContext
from megacontext.span import Grid, Span
from megacontext.telemetry.events import Turn
from nanochat.chat.flags import SETTINGS, parse_flags, setting_texts
from nanochat.chat.meter import context_lines, folded_tokens, meter, stats_lines, tree_lines
from nanochat.chat.terminal import CtrlC
from nanochat.harmless import harmless, snippet

TURN = Turn(turn=1, prompt_tokens=9, generated_tokens=20, history_tokens=18432, stop="stop", tokens_per_second=41.2)
STATS = {
    "history_tokens": 18432,
    "working_budget": 512,
    "active_slots": 498,
    "lod_counts": {0: 96, 1: 9, 2: 1},
    "num_expand": 2,
    "num_collapse": 1,
    "swap_rate": 0.031,
    "latency_ms": {"score": 1.0, "total": 38.2},
}


def view() -> SimpleNamespace:
    """A cache with four blocks of eight tokens, the middle two folded away, and a tail of three."""
    entries = (Span(0, 8, 0), Span(8, 16, 1), Span(16, 24, 1), Span(24, 32, 0))
    context = WorkingContext(64, Grid(8, 4), (0, 0, 0), entries, (0,) * 4, tail=3)
    return SimpleNamespace(context=context, stats=lambda: STATS)


def test_the_meter_says_it_all_in_one_line() -> None:
    some = STATS | {"lod_counts": {0: 96, 1: 9}}
    assert meter(some, TURN) == (
        "ctx 498/512 97% | history 18,432 tok = 96 LOD0 + 9 LOD1 | swaps 3 (0.03) | 38 ms/tick | 41 tok/s"
    )


def test_a_long_meter_is_shortened_before_anything_is_left_out() -> None:
    assert meter(STATS, TURN) == (
        "ctx 498/512 97% | history 18,432 tok = 96+9+1 LOD0-2 | swaps 3 (0.03) | 38 ms/tick | 41 tok/s"
    )


@pytest.mark.parametrize("scale", [1, 10**6, 10**15])
def test_the_meter_never_exceeds_100_columns(scale: int) -> None:
    stats = STATS | {name: value * scale for name, value in STATS.items() if isinstance(value, int)}
    stats["lod_counts"] = dict.fromkeys(range(9), scale)
    assert len(meter(stats, TURN)) <= 100


def test_the_meter_of_a_plain_cache_shows_what_it_knows() -> None:
    assert meter({"history_tokens": 44, "active_slots": 44}, TURN) == "ctx 44 | history 44 tok | 41 tok/s"


def test_the_context_shows_runs_of_one_level_the_tail_and_the_budget() -> None:
    first, *runs, tail = context_lines(view())
    assert first == "19/64 slots show 35 tokens of history"
    assert [line.split()[3:6] for line in runs] == [
        ["LOD0", "1", "page"],
        ["LOD1", "2", "gists"],
        ["LOD0", "1", "page"],
    ]
    assert "folded away" in runs[1]
    assert "tail" in tail
    assert folded_tokens(view()) == 16


def test_the_tree_shows_its_levels() -> None:
    lines = tree_lines(view())
    assert [line.split() for line in lines[1:4]] == [
        ["LOD0", "8", "4", "2"],
        ["LOD1", "8", "4", "2"],
        ["LOD2", "32", "1", "0"],
    ]


def test_the_figures_carry_units_and_name_what_to_investigate() -> None:
    text = "\n".join(stats_lines(view(), TURN))
    assert "498 slots" in text
    assert "total 38.2" in text
    sick = SimpleNamespace(context=None, stats=lambda: {"swap_rate": 0.9})
    assert stats_lines(sick, None) == ["  swap_rate              0.9  (investigate)"]


def test_every_flag_stands_for_a_setting_that_exists() -> None:
    assert set(SETTINGS.values()) <= set(field_names(DemoConfig))


def test_flags_become_settings_with_their_source() -> None:
    flags = parse_flags(["-t", "0.5", "--set", "memory.block=16", "--set", "memory.block=8", "--ephemeral"])
    texts = setting_texts(flags)
    assert texts["chat.temperature"] == ("0.5", "flag --temperature")
    assert texts["memory.block"] == ("8", "flag --set")
    assert parse_override(DemoConfig, "session.ephemeral", *texts["session.ephemeral"]).value is True


def test_a_flag_is_never_guessed_from_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        parse_flags(["--budge", "5"])
    assert leave.value.code == 2
    assert "Did you mean --budget?" in capsys.readouterr().err


def test_set_wants_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        setting_texts(parse_flags(["--set", "memory.budget"]))
    assert "SECTION.FIELD=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é漢🙂\n\ttext", "plain é漢🙂\n\ttext"),
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("\x07\x08\x00", "␇␈␀"),
        ("\x9b31m", "\ufffd31m"),
        ("a\rb", "ab"),
        ("\x7f", "␡"),
        ("abc\u202edcba", "abc\ufffddcba"),
    ],
)
def test_control_characters_are_shown_not_obeyed(text: str, shown: str) -> None:
    assert harmless(text) == shown


def test_a_snippet_is_one_short_line() -> None:
    assert snippet("\ufffd two\n\tlines  \x1b[31m ") == "two lines ␛[31m"
    assert snippet("word " * 40, 20) == "word word word w ..."


def test_ctrl_c_asks_first_and_interrupts_the_second_time() -> None:
    before = signal.getsignal(signal.SIGINT)
    with CtrlC() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
