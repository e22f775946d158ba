"""The store's benchmark: what it fills is a real session, what it prints can be read, and its verdicts add up."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import pytest

from tools.bench_store import build_parser, main
from tools.fault_programme.toy_model import write_model
from tools.inspection.verify import verify
from tools.storing.figures import rows_of, table_lines, verdicts
from tools.storing.filling import begin, fill, with_pages_as
from tools.storing.place import Place, load, opened

ROOT = Path(__file__).resolve().parents[2]
TEXT = "The owl sleeps in the barn. Nobody wakes it, but for the dog that runs over the bridge at night. "


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("stores")
    write_model(folder / "toy")
    return Place(str(folder), "begun", str(folder / "toy"), ram_bytes=100_000, max_tokens=8)


@pytest.fixture(scope="module")
def filled(place: Place) -> Place:
    """3,000 tokens, of which 1,024 and the newest are read by the model."""
    loaded = load(place)
    begin(place, loaded, cycle(loaded.text.encode(TEXT)), 1024, lambda line: None)
    target = Place(place.root, "filled", place.model, ram_bytes=100_000, max_tokens=8)
    made_up = fill(target, place, loaded, cycle(loaded.text.encode(TEXT)), 3000, lambda line: None)
    assert made_up == 1696
    return target


def test_a_filled_session_is_whole_and_comes_back_without_reading_a_token(filled: Place) -> None:
    found = verify(filled.folder)
    assert (found.exit_code, found.tokens) == (0, 3000)
    assert {file.state for file in found.files} == {"ok"}
    (pages,) = [file for file in found.files if file.name == "pages.ctx"]
    assert pages.note.startswith("93 pages ")
    loaded = load(filled)
    with opened(filled, loaded) as there:
        resumed = there.conversation.resume()
        assert (resumed.tokens, resumed.kept, resumed.why) == (3000, 3000, "")
        cache = there.conversation.cache
        cache.context.check()
        cache.context.check_budget()
        cache.view.check(cache.context)
        assert cache.context.history == 3000
        ids = list(there.session.array(0, 3000))
        assert loaded.text.decode(ids[:200]).startswith("user\n" + TEXT)
        assert "".join(there.conversation.say("Who sleeps?"))
        assert there.session.turns[-1].role == "assistant"


def test_pages_in_another_format_are_the_same_session(filled: Place) -> None:
    other = with_pages_as(filled, load(filled), "int8")
    found = verify(other.folder)
    assert (found.exit_code, {file.state for file in found.files}) == (0, {"ok"})
    (pages,) = [file for file in found.files if file.name == "pages.ctx"]
    assert "int8" in pages.note
    with opened(other, load(other)) as there:
        resumed = there.conversation.resume()
        assert resumed.kept >= 3000
        assert resumed.tokens - resumed.kept <= 1


@pytest.mark.slow
def test_rows_are_json_lines_and_the_table_goes_to_stderr(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 100, encoding="utf-8")
    flags = [
        "--history",
        "2500,4000",
        "--read",
        "2048",
        "--rounds",
        "1",
        "--json",
        "--text",
        str(tmp_path / "text.txt"),
    ]
    flags += ["--out", str(tmp_path / "rows.jsonl")]
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench_store", *flags], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert (tmp_path / "rows.jsonl").read_text() == done.stdout
    by = {(row["figure"], row["history_tokens"], row["page_dtype"]): row for row in rows}
    both = [
        (figure, n, "model") for figure in ("restart", "resident", "append", "page_in", "disk") for n in (2500, 4000)
    ]
    assert set(both) | {("disk", 2500, "int4"), ("page_in", 2500, "int8")} <= by.keys()
    assert by["restart", 4000, "model"]["read_again"] <= 1
    assert by["restart", 4000, "model"]["why"] == ""
    assert by["restart", 4000, "model"]["made_up_tokens"] > 1000
    assert by["resident", 4000, "model"]["tokens"] == 4 * 4000
    assert by["disk", 2500, "model"]["tokens.log"] >= 4
    assert 0 < by["append", 4000, "model"]["keep_share"] < 1
    for heading in ("restart", "resident", "append", "page_in", "disk"):
        assert f"  {heading}  dtype" in f"  {done.stderr}".replace("\n", "  ")
    assert "slowest restart over fastest, over all lengths: " in done.stderr


def restart(**changed) -> dict:
    found = {
        **dict.fromkeys(("process_ms", "load_ms", "read_again", "decode_ms", "keep_ms"), 1.0),
        **{
            "open_ms": 20.0,
            "first_token_ms": 80.0,
            "warm_first_token_ms": 50.0,
            "open_cpu_ms": 18.0,
            "first_token_cpu_ms": 70.0,
            "warm_first_token_cpu_ms": 45.0,
            "why": "",
            "threads": 1,
            "score_ms": 2.0,
        },
        **{"keep_share": 0.01, "thread_share": 0.005, "kept_tokens": 1000, "tokens": 1000, "opening_peak": 0},
        "resident": {"tokens": 4000, "others": 0, "pages": 10**6, "view": 10**5},
        "page_in_ms": {tier: {"p50": 0.1, "p95": 0.2} for tier in ("ram", "disk", "computed")},
    }
    return {**found, **changed}


def test_verdicts_hold_the_figures_against_what_was_to_be_reached(tmp_path: Path) -> None:
    place = Place(str(tmp_path), "s", "m")
    place.folder.mkdir()
    (place.folder / "tokens.log").write_bytes(bytes(4096))
    short = restart()
    resident = {"tokens": 44_000, "others": 70_000, "pages": 10**9, "view": 10**5}
    long = restart(kept_tokens=11_000, tokens=11_000, first_token_ms=105.0, resident=resident)
    rows = [{"history_tokens": 1000, "page_dtype": "model", **row} for row in rows_of(place, [short, restart()], None)]
    rows += [{"history_tokens": 11_000, "page_dtype": "model", **row} for row in rows_of(place, [long], short)]
    assert verdicts(rows) == [
        "restart over warm at 11,000: 2.5 (reach 2: no)",
        "slowest restart over fastest, over all lengths: 1.25 (reach 1.2: no)",
        "resident bytes a token beyond the budgets: 11.0 (reach 16: yes)",
        "keeping, of decode time: 0.015 (reach 0.02: yes)",
    ]
    lines = table_lines(rows)
    assert len({len(line) for line in lines[:3]}) == 1
    assert "11,000" in lines[2]


def test_flags_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--history", "0"]) == 2
    assert main(["--pages", "int2"]) == 2
    assert main(["--model", "nowhere.gguf", "--history", "2048"]) == 3
    assert "nowhere.gguf" in capsys.readouterr().err
    assert build_parser().parse([]).history == [10_000, 100_000, 1_000_000]


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from tools.bench_store import main; main(['--help'])\n"
        "sys.exit(bool({'torch', 'pydantic', 'rich', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0
