"""The command: files come out, they show the log's panels, and the page needs nothing else."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from reading_pages import Page

from megacontext.telemetry.events import Event, MemoryOpened, ModelLoaded, RunEnd, RunStart, Tick, Turn, Warning_
from megacontext.telemetry.sinks import JsonlSink
from tools.plot_run import main
from tools.run_plots.panels import panels_of
from tools.run_plots.series import course_of
from tools.run_plots.stacks import ceiling

matplotlib = pytest.importorskip("matplotlib")


def tick(number: int, reason: str = "budget", **more: object) -> Tick:
    figures = {
        "history_tokens": 64 * (number + 1),
        "working_budget": 128,
        "utilization": 0.9,
        "swap_rate": 0.1,
        "residency": 0.85,
        "mean_residency_ticks": 4.0,
        "lod_counts": {0: 2, 1: number},
        "latency_ms": {"score": 1.0, "plan": 0.5, "page": 2.0, "assemble": 0.25, "forward": 30.0, "total": 33.75},
    }
    return Tick(tick=number, reason=reason, **{**figures, **more})  # type: ignore[arg-type]


def run(**more: object) -> list[Event]:
    memory = {"block": 32, "budget": 128, "cache": "megacontext"}
    return [
        RunStart(program="test", config={"memory": memory}),
        ModelLoaded(name="tiny & <small>", fingerprint="f", load_ms=1.0, summary={"family": "llama"}),
        *(tick(number, **more) for number in range(6)),
        tick(6, "prompt", **more),
        Turn(turn=1, prompt_tokens=440, generated_tokens=9, history_tokens=450, stop="stop", name="<b>.txt"),
        Warning_(message="something \x1b[31mred"),
        RunEnd(exit_code=0, seconds=2.0),
    ]


def write(folder: Path, events: list[Event]) -> Path:
    sink = JsonlSink(folder, "run")
    for event in events:
        sink.emit(event)
    sink.close()
    return sink.path


def drawn(tmp_path: Path, events: list[Event], *flags: str) -> tuple[Page, str]:
    log = write(tmp_path, events)
    assert main([str(log), "--out", str(tmp_path / "out"), *flags]) == 0
    png = tmp_path / "out" / f"{log.stem}.png"
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = png.with_suffix(".html").read_text(encoding="utf-8")
    return Page(text), text


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, str]:
    """The page of a run with all panels, parsed and as it is."""
    return drawn(tmp_path_factory.mktemp("drawing"), run(delta_nll=0.05))


def names(events: list[Event]) -> list[str]:
    return [panel.name for panel in panels_of(course_of(events))]


ALL = ["swap_rate", "residency", "utilization", "lod_counts", "latency_own", "latency_ms", "latency_prompts"]


def test_a_panel_is_there_for_what_the_log_knows() -> None:
    assert names(run()) == ALL
    with_delta = run(delta_nll=0.05, delta_nll_baseline="exact")
    assert names(with_delta) == [*ALL[:4], "delta_nll", *ALL[4:]]
    assert panels_of(course_of(with_delta))[4].note.startswith("nats a token above the reference (exact)")


def test_a_log_of_an_earlier_version_lacks_a_panel_not_a_picture(tmp_path: Path) -> None:
    older = run(latency_ms={"score": 1.0, "plan": 0.5, "page": 2.0, "total": 3.5}, mean_residency_ticks=None)
    assert names(older) == [name for name in ALL if name != "latency_ms"]
    drawn(tmp_path, older)


def test_one_tick_that_towers_over_all_others_does_not_flatten_them() -> None:
    assert ceiling([10.0, 11.0, 12.0] * 7 + [1900.0]) == 18.0
    assert ceiling([10.0, 25.0]) == 25.0
    assert ceiling([]) == 0.0


def test_the_page_needs_nothing_from_outside(drawing: tuple[Page, str]) -> None:
    page, text = drawing
    assert page.open == []
    assert page.links
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not re.findall(r"https?:|//|@import|<script|url\((?!#)", text)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)


def test_the_page_tells_in_words_what_is_drawn(drawing: tuple[Page, str]) -> None:
    page, text = drawing
    words = " ".join(page.words)
    for part in ("450 tokens in a view of 128 slots", "tiny & <small>", "<b>.txt", "warning: something ␛[31mred"):
        assert part in words
    assert "healthy 0.9 to 1, investigate < 0.8" in words
    assert len(page.labels) == len(ALL) + 1 == text.count("<svg ")
    assert page.labels[1] == (
        "residency along the run; median 0.85, from 0.85 to 0.85; healthy in 0 % of ticks; "
        "where prompts ended 0.85 to 0.85; healthy 0.9 to 1, investigate < 0.8."
    )
    assert page.labels[3].endswith("at the end of the text that flowed 224 at LOD0, 160 at LOD1.")
    assert page.labels[-1].endswith("stacked by part: 34 ms at 448.")


def test_every_colour_of_a_panel_follows_the_page(drawing: tuple[Page, str]) -> None:
    _, text = drawing
    svg = text[text.index("<svg") : text.rindex("</svg>")]
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#ffffff"}
    used = set(re.findall(r"var\((--[\w-]+)\)", text))
    assert all(text.count(f"{name}: #") == 2 for name in used - {"--fill"})  # light and dark


def test_ticks_can_be_the_axis(tmp_path: Path) -> None:
    page, _ = drawn(tmp_path, run(), "--against", "ticks")
    assert "ticks" in [word.strip() for word in page.words]


def test_an_interrupted_log_is_drawn_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(tmp_path, run()[:-1])
    log.write_bytes(log.read_bytes()[:-7])
    assert main([str(log)]) == 0
    assert "interrupted, or still running (no run_end); its torn last line is left out" in capsys.readouterr().err
    assert "no run_end" in " ".join(Page(log.with_suffix(".html").read_text(encoding="utf-8")).words)


def test_a_run_without_turns_or_prompts_is_drawn(tmp_path: Path) -> None:
    page, _ = drawn(tmp_path, [run()[0], tick(0)])
    assert "No turn came to its end." in page.words


def test_of_several_conversations_one_is_drawn_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """/load goes to a session with less history, whose ticks are counted anew."""
    start, loaded, *first, end = run()
    one, other = (MemoryOpened(cache="megacontext", session=name) for name in ("long", "short"))
    second = [tick(0), Turn(turn=1, prompt_tokens=60, generated_tokens=4, history_tokens=64, stop="stop")]
    log = write(tmp_path, [start, loaded, one, *first, other, *second, end])
    for flags, words in (([], "450 tokens in a view"), (["--conversation", "2"], "64 tokens in a view")):
        assert main([str(log), *flags]) == 0
        page = Page(log.with_suffix(".html").read_text(encoding="utf-8"))
        assert words in " ".join(page.words)
        assert "holds 2 conversations (1 long, 2 short): drawn is " in capsys.readouterr().err
    assert main([str(log), "--conversation", "3"]) == 2
    assert "has 2, counted from 1" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], [Tick(tick=0)]], ids=["no tick", "a tick without figures"])
def test_a_log_with_nothing_to_draw_says_which_cache_has_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[Event]
) -> None:
    start = RunStart(program="test", config={"memory": {"cache": "full"}})
    assert main([str(write(tmp_path, [start, *more, RunEnd(exit_code=0, seconds=1.0)]))]) == 2
    assert "holds no tick with figures (its memory.cache is full)" in capsys.readouterr().err


def test_names_are_drawn_as_they_are_written(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    events = run()
    events[-3] = Turn(
        turn=1, prompt_tokens=9, generated_tokens=0, history_tokens=450, stop="read", name="$a$ \\x 漢\x1b"
    )
    page, _ = drawn(tmp_path, events)
    assert "$a$ \\x 漢␛" in page.words
    assert not [found for found in recwarn if issubclass(found.category, UserWarning)]


@pytest.mark.parametrize(("content", "code"), [(b"", 1), (b"no log\n", 1), (None, 2)])
def test_what_is_no_log_is_told_by_exit_code(
    tmp_path: Path, content: bytes | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.log"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path)]) == code
    assert f"error: {path}" in capsys.readouterr().err
    assert not path.with_suffix(".png").exists()


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write(tmp_path, run())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([str(log)]) == 3
    assert "pip install 'megacontext[plots]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [log]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(tmp_path, run())
    assert main([str(log), "--out", str(log / "below")]) == 2
    assert "name another place with --out" in capsys.readouterr().err
