"""Runs chosen tests and no others: pytest, with every test deselected that standard input does not name.

    echo tests/a.py::test_x | python tools/migration/chosen_tests.py RESULTS.xml

An id that matches nothing does not stop the others, as it would on pytest's command line. Runs in the project's root,
whatever project that is: nothing of this one is imported.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


class Chosen:
    """Keeps the tests whose function is named, with whatever parameters."""

    def __init__(self, ids: list[str]) -> None:
        self.functions = {name.partition("[")[0] for name in ids}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        others = [item for item in items if item.nodeid.partition("[")[0] not in self.functions]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item.nodeid.partition("[")[0] in self.functions]


def main() -> int:
    ids = sys.stdin.read().split()
    files = sorted({name.partition("::")[0] for name in ids})
    options = ["-q", "--continue-on-collection-errors", f"--junitxml={sys.argv[1]}", f"--rootdir={Path.cwd()}"]
    sys.path[0] = str(Path.cwd())  # as `python -m pytest` has it
    return pytest.main([*options, *files], plugins=[Chosen(ids)])


if __name__ == "__main__":
    sys.exit(main())
