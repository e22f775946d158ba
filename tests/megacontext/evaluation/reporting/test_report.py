"""The command: files come out, tables say what rows say, the page needs nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_rows import episode, recall_rows, row, text_rows, write
from reading_pages import Page
from seen_in_browser import ask

from megacontext.evaluation.report import main

HARD, EASY = [1.0] * 3 + [0.0] * 7, [1.0] * 10
FIGURES = {"full": HARD, "oracle": EASY, "random": [0.0] * 10, "megacontext": EASY, "h2o": HARD}
TIMED = [
    {"cache": name, "history_tokens": n, "decode_ms_p50": ms, "trained_positions": 2048, "model": "tiny", "threads": 1}
    for name, n, ms in (("full", 1024, 20.0), ("full", 4096, 40.0), ("megacontext", 4096, 21.0))
]
RATIO = {"ratio": "a over <b>", "history_tokens": 4096, "value": 1.04, "quartiles": [1.0, 1.1], "reach": "<= 1.05",
         "reached": True, "model": "tiny", "threads": 1}  # fmt: skip
DOCUMENT = "# Results\n\n<!-- tables: summary -->\nold\n<!-- /tables: summary -->\n\nReading.\n"


def all_rows() -> list[dict]:
    recall = recall_rows(**{name: dict.fromkeys(range(3), right) for name, right in FIGURES.items()})
    base = {seed: [2.0, 2.5, 3.0] for seed in range(6)}
    moved = [{s: [x + d - 0.05 * (s == 4) for x in v] for s, v in base.items()} for d in (0.01, 0.1, 0.2)]
    title = "document <b>chapter|{}</b>: a long title"
    names = ("megacontext", "streaming_llm", "random")
    return [*recall, *text_rows(base, title, **dict(zip(names, moved, strict=True))), *TIMED, RATIO]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of all kinds of rows."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("report")
    rows = write(folder / "rows.jsonl", all_rows())
    assert main([str(rows), "--out", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def markdown(out: Path) -> str:
    return (out / "report.md").read_text(encoding="utf-8")


def section(markdown: str, title: str) -> str:
    return re.split(r"\n#+ ", markdown.split(f"# {title}\n", 1)[1])[0]


def test_tables_pictures_and_a_page_come_out(out: Path, markdown: str) -> None:
    pictures = {"quality_by_bytes.png", "recall_by_history.png", "milliseconds_by_history.png"}
    assert {path.name for path in out.iterdir()} == {"report.md", "report.html", *pictures}
    for name in pictures:
        assert (out / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert f"]({name})" in markdown


def test_a_task_has_a_row_for_each_memory_with_its_figures(markdown: str) -> None:
    words = section(markdown, "late_recall, 6,000 tokens")
    assert "| method | budget | right | 95 % | less the best | NLL | slots | read | MB | GFLOP to choose |" in words
    assert "| **megacontext** | 512 | **1.00** | 0.88 .. 1.00 | - | 1.000 | 500 | 400 | 20 | 2.5 | 3 |" in words
    assert re.search(r"^\| h2o \| 512 \| 0.30 \| .* \| -0\.\d\d \.\. -0\.\d\d \|", words, re.MULTILINE)
    assert re.search(r"^\| full \| - \| 0.30 \|", words, re.MULTILINE)


def test_a_loss_is_told_as_a_share_below_the_window(markdown: str) -> None:
    words = section(markdown, "plain_text_six, 6,144 tokens")
    head = next(line for line in words.splitlines() if line.startswith("| method"))
    column = head.split(" | ").index("% below streaming_llm")
    ours = next(line for line in words.splitlines() if line.startswith("| **megacontext**"))
    # the loss is 0.01 above full attention's on five documents, 0.04 below on one; the window's 0.1 and 0.05
    assert ours.split(" | ")[column].startswith("98 (")


def test_documents_that_do_better_with_less_are_named(markdown: str) -> None:
    words = section(markdown, "plain_text_six, 6,144 tokens")
    assert "by document (ΔNLL)" in words
    assert "-0.040†" in words
    assert "† Less context is better than all of it, beyond the interval: document" in words
    assert "chapter|4" in words.split("beyond the interval")[1]
    assert "5: \\<b>chapter\\|4\\</b>: a long title" in words


def test_the_summary_counts_who_is_best(markdown: str) -> None:
    words = section(markdown, "Summary")
    assert "| megacontext | **1.00** | 1 of 1 |" in words
    assert "| full | 0.30 | - |" in words
    assert "| late_recall, 6,000 tokens | right | megacontext 1.00 |" in section(markdown, "Best at what")
    assert "Nowhere" in section(markdown, "Where megacontext loses")
    assert "Xiao et al. 2024" in section(markdown, "Methods and their settings")


def test_a_task_at_which_chance_is_as_good_says_so(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = write(tmp_path / "rows.jsonl", recall_rows(megacontext={0: EASY}, random={0: EASY}))
    assert main([str(path), "--out", str(tmp_path)]) == 0
    words = section((tmp_path / "report.md").read_text(encoding="utf-8"), "Best at what")
    assert "Random pages are the best there or may be as good" in words
    assert "late_recall, 6,000 tokens, 512 slots." in words


def test_speed_has_its_table_and_its_ratios(markdown: str) -> None:
    words = section(markdown, "Speed")
    assert "| full | 4,096 | 40.0 |" in words
    assert "| a over \\<b> | 4,096 | 1.040 | 1.000 .. 1.100 | \\<= 1.05 | yes |" in words


def test_every_table_has_as_many_cells_as_heads(markdown: str) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_page_needs_nothing_from_outside(out: Path) -> None:
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert page.links
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not re.findall(r"https?:|//|@import|<script|<b>|url\((?!#)", text)
    assert text.count("<svg ") == 3
    assert "document <b>chapter|4</b>" in " ".join(page.words)


SEEN = """({
    pictures: [...document.querySelectorAll('svg')].map(one => one.getBoundingClientRect().height > 100),
    heading: document.querySelector('h1').textContent,
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    fetched: performance.getEntriesByType('resource').length,
    lost: [...document.querySelectorAll('nav a')].filter(one => !document.querySelector(one.hash)).length,
})"""


@pytest.mark.slow
def test_a_browser_shows_the_page(out: Path, tmp_path: Path) -> None:
    seen = ask(out / "report.html", tmp_path, SEEN)
    assert seen == {"pictures": [True] * 3, "heading": "What each memory keeps", "wide": 0, "fetched": 0, "lost": 0}


def test_models_are_apart_each_with_its_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [*recall_rows(megacontext={0: EASY}), row("megacontext", 512, [episode(0, right=HARD)], model="other")]
    assert main([str(write(tmp_path / "rows.jsonl", rows)), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.count("### Summary") == 2
    assert {"quality_by_bytes.png", "quality_by_bytes_2.png"} <= {path.name for path in tmp_path.iterdir()}


def test_without_matplotlib_tables_still_come(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    path = write(tmp_path / "rows.jsonl", recall_rows(megacontext={0: EASY}))
    assert main([str(path), "--out", str(tmp_path / "out")]) == 3
    assert "pip install 'megacontext[plots]'" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.md", "report.html"}
    assert "There are no pictures" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_places_of_another_document_are_filled_and_filled_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows, document = write(tmp_path / "rows.jsonl", recall_rows(megacontext={0: EASY})), tmp_path / "results.md"
    document.write_text(DOCUMENT, encoding="utf-8")
    texts = []
    for _ in range(2):
        assert main([str(rows), "--out", str(tmp_path / "out"), "--into", str(document)]) == 0
        texts.append(document.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    assert "old" not in texts[0]
    assert "| megacontext | **1.00** | 1 of 1 |" in texts[0]
    assert texts[0].startswith("# Results\n\n<!-- tables: summary -->\n")
    assert texts[0].endswith("<!-- /tables: summary -->\n\nReading.\n")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("# Results\n", "no place for tables"),
        ("<!-- tables: summary -->\n", "is not closed"),
        ("<!-- tables: sumary -->\n<!-- /tables: sumary -->\n", "these rows make no such section; there are reading"),
        (None, "cannot be read"),
    ],
)
def test_a_document_without_its_places_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], document: str | None, words: str
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "results.md"
    if document is not None:
        path.write_text(document, encoding="utf-8")
    rows = write(tmp_path / "rows.jsonl", TIMED if "sumary" in (document or "") else recall_rows(h2o={0: EASY}))
    assert main([str(rows), "--out", str(tmp_path / "out"), "--into", str(path)]) == 2
    assert words in capsys.readouterr().err


def test_what_is_no_row_is_told_by_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("hello\n")
    assert main([str(path), "--out", str(tmp_path / "out")]) == 2
    assert f"error: {path}: no row in 1 lines" in capsys.readouterr().err
    assert main([str(tmp_path / "none.jsonl")]) == 2
    assert not (tmp_path / "out").exists()


def test_help_needs_neither_torch_nor_matplotlib() -> None:
    program = (
        "import sys; from megacontext.evaluation.report import main; code = main(['--help']); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'matplotlib', 'pydantic', 'rich', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--into" in done.stdout
