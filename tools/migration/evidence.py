"""What the tests that MIGRATION.md names came to: read from a JUnit file, or run here and now.

pytest writes a test as `classname` (its file and classes, with dots) and `name` (its function, with parameters); an
id without parameters stands for all of them. Knows nothing of rows.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

Outcome = Literal["passed", "skipped", "failing", "missing"]
RUNNER = Path(__file__).with_name("chosen_tests.py")
_ORDER: tuple[Outcome, ...] = ("passed", "skipped", "failing")  # the worst of several counts


class Verdict(NamedTuple):
    """What a test id came to. detail: pytest's own words for what did not pass."""

    outcome: Outcome
    detail: str = ""


class Results:
    """Everything one run of pytest has to say."""

    def __init__(self, cases: Iterable[tuple[str, str, Verdict]]) -> None:
        """cases: (classname, name, verdict) as the JUnit file has them."""
        self._cases: dict[str, list[tuple[str, Verdict]]] = {}
        for classname, name, verdict in cases:
            self._cases.setdefault(classname, []).append((name, verdict))

    def verdict(self, test: str) -> Verdict:
        """The worst of all tests that the id stands for, or of its file that did not import; `missing` if neither."""
        classname, name = _junit_name(test)
        found = [verdict for other, verdict in self._cases.get(classname, ()) if stands_for(name, other)]
        found = found or [verdict for other, verdict in self._cases.get("", ()) if other == _module(test)]
        if not found:
            return Verdict("missing")
        return max(found, key=lambda verdict: _ORDER.index(verdict.outcome))


class NoResults(Exception):
    """There is no file of results, or it is not one."""


def stands_for(name: str, other: str) -> bool:
    """Whether `name` means the test `other`: the same, all its parameters, or those that begin so."""
    return other == name or other.startswith(name if "[" in name else f"{name}[")


def read_results(path: Path) -> Results:
    """The results in a JUnit file. Raises NoResults."""
    try:
        tree = ElementTree.parse(path)
    except (OSError, ElementTree.ParseError) as error:
        raise NoResults(f"{path}: no results of a test run ({error})") from error
    return Results(
        (case.get("classname", ""), case.get("name", ""), _verdict(case)) for case in tree.getroot().iter("testcase")
    )


def run_tests(root: Path, tests: Iterable[str]) -> Results:
    """Run exactly these tests of the project in `root`, in one subprocess. Raises NoResults if pytest cannot."""
    there = sorted({test for test in tests if (root / test.partition("::")[0]).is_file()})
    if not there:
        return Results(())
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder, "results.xml")
        command = [sys.executable, str(RUNNER), str(xml)]
        asked = "\n".join(there)
        done = subprocess.run(command, cwd=root, input=asked, capture_output=True, text=True, env=environment)
        if not xml.is_file():
            raise NoResults(f"pytest wrote no results (exit {done.returncode}): {(done.stderr or done.stdout).strip()}")
        return read_results(xml)


def _junit_name(test: str) -> tuple[str, str]:
    """tests/a/test_b.py::TestC::test_d[1] -> ("tests.a.test_b.TestC", "test_d[1]")."""
    bare, bracket, parameters = test.partition("[")
    _, *names = bare.split("::")
    return ".".join([_module(test), *names[:-1]]), names[-1] + bracket + parameters


def _module(test: str) -> str:
    return test.partition("::")[0].removesuffix(".py").replace("/", ".")


def _verdict(case: ElementTree.Element) -> Verdict:
    return max(_verdicts(case), key=lambda verdict: _ORDER.index(verdict.outcome), default=Verdict("passed"))


def _verdicts(case: ElementTree.Element) -> Iterator[Verdict]:
    for child in case:
        message = (child.get("message") or "").strip().partition("\n")[0]
        if child.tag in ("failure", "error"):
            yield Verdict("failing", message)
        elif child.tag == "skipped":
            yield Verdict("skipped", message)
