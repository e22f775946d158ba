"""The check of MIGRATION.md, on a project of five files that lives in a temporary folder: real pytest, real --help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.migration.document import counts_table, parse
from tools.migration_status import main

HEAD = "# Migration\n\n## Commands\n\n| earlier | here | state | shown by |\n|---|---|---|---|\n"
TESTS = """
import pytest

def test_that_passes(): pass
def test_that_fails(): assert not "this"
def test_that_is_skipped(): pytest.skip("no data here")

@pytest.mark.parametrize("number", [1, 2, 12])
def test_of_numbers(number): assert number != 2

class TestCase:
    def test_inside(self): pass

@pytest.fixture
def untidy():
    yield
    raise OSError("left a mess")

def test_that_fails_when_it_is_over(untidy): pass
"""
TOOL = "import argparse\nargparse.ArgumentParser().parse_args()\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in which everything is true."""
    for folder in ("tests", "tools", "configs", "docs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tests" / "test_tiny.py").write_text(TESTS)
    (tmp_path / "tests" / "test_torn.py").write_text("import nothing_of_that_name\ndef test_that_never_runs(): pass\n")
    (tmp_path / "tools" / "good.py").write_text(TOOL + 'NAME = "MEGACONTEXT_FROM_CODE"\n')
    (tmp_path / "tools" / "broken.py").write_text("raise SystemExit('no such luck')\n")
    (tmp_path / "tools" / "mute.py").write_text("print('done something')\n")
    (tmp_path / "configs" / "there.yaml").write_text("{}\n")
    (tmp_path / "Makefile").write_text("NAME := value\n.PHONY: there\nthere: ## say so\n\t@true\n")
    (tmp_path / "README.md").write_text("`make there` runs `python -m tools.good --config configs/there.yaml`.\n")
    write(tmp_path, "| `tools.old` | `tools.good` | done | tests/test_tiny.py::test_that_passes |")
    return tmp_path


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a full run of the project's tests wrote."""
    root = tmp_path_factory.mktemp("full")
    (root / "tests").mkdir()
    (root / "tests" / "test_tiny.py").write_text(TESTS)
    (root / "tests" / "test_torn.py").write_text("import nothing_of_that_name\n")
    options = ["-q", "--continue-on-collection-errors", "--junitxml=results.xml", "--rootdir=."]
    subprocess.run([sys.executable, "-m", "pytest", *options], cwd=root, capture_output=True)
    return root / "results.xml"


def write(project: Path, *rows: str) -> None:
    (project / "MIGRATION.md").write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


def problems(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_project_in_which_all_is_true_passes(
    project: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check", "--results", str(results)], project) == 0
    said = capsys.readouterr()
    assert "all of it true" in said.out
    assert not said.err


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("| a | b | done | |", ":7: done names no test"),
        ("| a | b | done: fully | |", ":7: done names no test"),
        ("| a | b | finished | |", ":7: unknown state 'finished'"),
        ("| a | b | | |", ":7: unknown state ''"),
        ("| a | b | partial | |", ":7: partial gives no reason"),
        ("| a | b | dropped: | |", ":7: dropped gives no reason"),
        ("| a | b | planned | |", ":7: planned gives no reason"),
        ("| a | b | done | see the tests |", ":7: 'see' is no id of a test"),
        ("| a | b | done |", ":7: a table here"),
        ("\n| promise | here | state | shown by |\n|---|---|---|---|", ":8: a table here"),
        ("| a | b | done | tests/test_tiny.py::test_never |", "test_never is missing"),
        ("| a | b | done | tests/test_gone.py::test_it |", "test_it is missing"),
        ("| a | b | done | tests/test_tiny.py::test_that_fails |", "test_that_fails is failing: AssertionError"),
        (
            "| a | b | done | tests/test_tiny.py::test_that_is_skipped |",
            "test_that_is_skipped is skipped: no data here",
        ),
        ("| a | b | done | tests/test_tiny.py::test_of_numbers |", "test_of_numbers is failing"),
        ("| a | b | done | tests/test_tiny.py::test_of_numbers[2] |", "test_of_numbers[2] is failing"),
        ("| a | b | done | tests/test_tiny.py::test_of_numbers[3] |", "test_of_numbers[3] is missing"),
        ("| a | b | done | tests/test_tiny.py::test_that |", "test_that is missing"),
        ("| a | b | done | tests/test_tiny.py::test_that_fails_when_it_is_over |", "it_is_over is failing"),
        ("| a | b | done | tests/test_torn.py::test_that_never_runs |", "test_that_never_runs is failing: collection"),
        (
            "| a | b | done | tests/test_torn.py::TestCase::test_inside |",
            "TestCase::test_inside is failing: collection",
        ),
        ("| a | b | partial: half | tests/test_tiny.py::test_that_fails |", "partial, but tests/test_tiny.py"),
    ],
)
def test_a_row_without_evidence_is_named_with_its_line(
    project: Path, results: Path, capsys: pytest.CaptureFixture[str], row: str, reason: str
) -> None:
    write(project, row)
    assert main(["--check", "--results", str(results)], project) == 1
    found = problems(capsys)
    assert all(line.startswith("MIGRATION.md:") for line in found)
    assert any(reason in line for line in found), found


@pytest.mark.parametrize(
    "row",
    [
        "| a | b | done: with a note | `tests/test_tiny.py::test_that_passes` |",
        "| a | b | done | tests/test_tiny.py::test_that_passes<br>tests/test_tiny.py::TestCase::test_inside |",
        "| a | b | done | tests/test_tiny.py::test_of_numbers[1 |",
        "| a \\| b | c | dropped: nobody asks for it | |",
        "| `python -m tools.old --config configs/old.yaml`, `MEGACONTEXT_OLD`, `make old` | | planned: all of it | |",
    ],
)
def test_a_row_with_evidence_or_with_its_reason_passes(
    project: Path, results: Path, capsys: pytest.CaptureFixture[str], row: str
) -> None:
    write(project, row)
    assert main(["--check", "--results", str(results)], project) == 0, problems(capsys)


def test_without_a_file_of_results_exactly_the_named_tests_run(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ("test_that_passes", "test_that_is_skipped", "test_of_numbers[1]", "test_never", "TestCase::test_inside")
    cells = "<br>".join(f"tests/test_tiny.py::{name}" for name in named)
    (project / "tests" / "test_other.py").write_text("import os\n\ndef test_alone(): os._exit(7)\n")
    with (project / "tests" / "test_tiny.py").open("a") as file:
        file.write("\ndef test_that_must_not_run(): __import__('os')._exit(7)\n")
    write(project, f"| a | b | done | {cells}<br>tests/test_torn.py::test_that_never_runs |")
    assert main(["--check"], project) == 1
    found = [line.partition("::")[2] for line in problems(capsys)]
    assert [line.split(":")[0] for line in found] == [
        "test_that_is_skipped is skipped",
        "test_never is missing",
        "test_that_never_runs is failing",
    ]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("`python -m tools.gone`", "python -m tools.gone: there is no such module to run"),
        ("`uv run --extra cpu python -m tools.gone`", "python -m tools.gone: there is no such module to run"),
        (
            "```bash\n.venv/bin/python -m nanochat.gone -p x\n```",
            "python -m nanochat.gone: there is no such module to run",
        ),
        ("`python -m no_such_package.x`", "python -m no_such_package.x: there is no such module"),
        ("`python tools/gone.py`", "python tools/gone.py: there is no such file"),
        ("`python -m tools.broken`", "python -m tools.broken --help: exit 1: no such luck"),
        ("`python tools/broken.py --now`", "python tools/broken.py --help: exit 1: no such luck"),
        ("`python -m tools.mute`", "python -m tools.mute --help: says nothing of its usage"),
        ("`tools.gone` does it", "tools.gone: there is no such module"),
        ("`tools/gone.py --now` does it", "tools/gone.py: there is no such file"),
        ("`make gone`", "make gone: the Makefile has no such target"),
        ("`make NAME`, `make name`", "make name: the Makefile has no such target"),
        ("```bash\nmake there && make gone   # now\n```", "make gone: the Makefile has no such target"),
        ("[it](configs/gone.yaml)", "configs/gone.yaml: there is no such file"),
        ("set `MEGACONTEXT_NOBODY_CARES=1`", "MEGACONTEXT_NOBODY_CARES: no code reads this variable"),
    ],
)
@pytest.mark.parametrize("file", ["README.md", "docs/deep/notes.md", "MIGRATION.md"])
def test_what_a_document_names_must_be_there(
    project: Path, results: Path, capsys: pytest.CaptureFixture[str], file: str, words: str, reason: str
) -> None:
    path = project / file
    path.parent.mkdir(exist_ok=True)
    before = path.read_text() if path.is_file() else ""
    path.write_text(f"{before}\n{words}\n")
    line = before.count("\n") + 2 + words.startswith("```")
    assert main(["--check", "--results", str(results)], project) == 1
    assert problems(capsys) == [f"{file}:{line}: {reason}"]


def test_what_a_document_names_and_is_there_passes(
    project: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = "`python tools/good.py`, `python -m tools.good`, `python -m pytest`, `MEGACONTEXT_FROM_CODE=1`, make do. "
    settings = (
        "`MEGACONTEXT_CHAT_SEED=3`, `MEGACONTEXT_<SECTION>_<FIELD>`, `configs/*.yaml`, `elsewhere/configs/x.yaml`"
    )
    (project / "README.md").write_text(fine + settings)
    assert main(["--check", "--results", str(results)], project) == 0, problems(capsys)


def test_a_help_that_does_not_answer_is_a_problem(
    project: Path, results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.migration.named.HELP_SECONDS", 0.5)
    (project / "tools" / "good.py").write_text("import time\ntime.sleep(30)\n")
    assert main(["--check", "--results", str(results)], project) == 1
    assert "no answer within 0.5 s" in problems(capsys)[0]


def test_json_says_rows_counts_and_problems(project: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(project, "| a | b | done | |", "| c | d | planned: time | |")
    assert main(["--check", "--json", "--results", str(results)], project) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["counts"] == said["sections"]["Commands"]
    assert said["counts"] == {"done": 1, "partial": 0, "planned": 1, "dropped": 0, "rows": 2}
    assert said["rows"][1] == {
        "section": "Commands", "line": 8, "earlier": "c", "here": "d", "state": "planned", "reason": "time", "tests": []
    }  # fmt: skip
    assert [problem["line"] for problem in said["problems"]] == [7]


def test_without_check_nothing_is_run_and_the_rows_are_counted(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(project, "| first | b | done | |", "| second | d | dropped: no use | |")
    assert main([], project) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["  done     first", "  dropped  second"]
    assert lines[-1].split() == ["all", "1", "0", "0", "1", "2"]


def test_counts_in_the_document_are_checked_and_written(
    project: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "MIGRATION.md"
    path.write_text("<!-- counts -->\nold\n<!-- /counts -->\n\n" + path.read_text())
    assert main(["--check", "--results", str(results)], project) == 1
    assert "MIGRATION.md:2: the counts are not those of the rows" in problems(capsys)[0]
    assert main(["--write"], project) == 0
    text = path.read_text()
    assert counts_table(parse(text)) in text
    assert main(["--check", "--results", str(results)], project) == 0


@pytest.mark.parametrize("content", [None, "no results"])
def test_results_that_cannot_be_read_exit_with_two(
    project: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content:
        (project / "results.xml").write_text(content)
    assert main(["--check", "--results", str(project / "results.xml")], project) == 2
    assert "no results of a test run" in capsys.readouterr().err


def test_a_project_without_the_document_exits_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], tmp_path) == 2
    assert "MIGRATION.md" in capsys.readouterr().err
