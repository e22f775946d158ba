"""What the docs name, and whether it is there: commands, modules, make targets, configuration files, variables.

A command is there when its `--help` works. Files and targets are looked up; nothing else is run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tools.migration.document import Problem, without_first_cells

DOCS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "MIGRATION.md")
MIGRATION = DOCS[-1]
PACKAGES = ("nanochat", "megacontext", "tools")
HELP_SECONDS = 20.0  # a few on a quiet machine
AT_ONCE = 2

_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_MAKE = r"make +([a-z][\w-]*)"
_PATTERNS: dict[str, re.Pattern[str]] = {
    "module": re.compile(r"\bpython3?\s+-m\s+([A-Za-z_]\w*(?:\.\w+)*)"),
    "script": re.compile(r"\bpython3?\s+([\w][\w./-]*\.py)\b"),
    "mention": re.compile(r"(?<=`)(tools(?:\.[a-z_]\w*)+)(?=[`\s])"),
    "file": re.compile(r"(?<=`)(tools/[\w/-]+\.py)"),
    "target": re.compile(rf"(?<=`){_MAKE}"),
    "config": re.compile(r"(?<![\w./-])(configs/[\w./-]+\.(?:ya?ml|json))\b"),
    "variable": re.compile(r"\b(MEGACONTEXT_[A-Z0-9_]*[A-Z0-9])\b(?!_)"),
}
_FENCED_TARGET = re.compile(rf"(?:^|&&|;)[ \t]*{_MAKE}", re.MULTILINE)
_QUOTED_VARIABLE = re.compile(r"""["'](MEGACONTEXT_[A-Z0-9_]+)["']""")


class Named(NamedTuple):
    """A thing that a document names. kind: a key of the checks below."""

    file: str
    line: int
    kind: str
    name: str


class Project:
    """The project in `root`, as far as names need it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def targets(self) -> set[str]:
        makefile = self.root / "Makefile"
        text = makefile.read_text(encoding="utf-8") if makefile.is_file() else ""
        return set(re.findall(r"^([a-z][\w-]*):(?!=)", text, re.MULTILINE))

    @cached_property
    def variables(self) -> set[str]:
        """Variables that the code names in full, and those of the settings."""
        files = [path for package in PACKAGES for path in (self.root / package).rglob("*.py")]
        named = {name for path in files for name in _QUOTED_VARIABLE.findall(path.read_text(encoding="utf-8"))}
        return named | _setting_variables()

    def module_file(self, module: str) -> Path | None:
        """The file that `python -m module` would run, for a module of this project."""
        path = self.root.joinpath(*module.split("."))
        choices = (path.with_suffix(".py"), path / "__main__.py")
        return next((choice for choice in choices if choice.is_file()), None)

    def is_ours(self, module: str) -> bool:
        return module.partition(".")[0] in PACKAGES


def documents(root: Path) -> list[Path]:
    """The documents that are read, in order."""
    return [path for path in map(root.joinpath, DOCS) if path.is_file()] + sorted((root / "docs").glob("**/*.md"))


def names_in(text: str, file: str) -> Iterator[Named]:
    """Everything a document names; the column `earlier` of MIGRATION.md speaks of what was, and is left out."""
    text = without_first_cells(text) if file == MIGRATION else text
    for kind, pattern in _PATTERNS.items():
        for match in pattern.finditer(text):
            yield Named(file, _line(text, match.start(1)), kind, match[1])
    for fence in _FENCE.finditer(text):
        for match in _FENCED_TARGET.finditer(fence[0]):
            yield Named(file, _line(text, fence.start() + match.start(1)), "target", match[1])


def problems(root: Path) -> Iterator[Problem]:
    """What the documents name and is not there; each name once, where it first stands."""
    first: dict[tuple[str, str], Named] = {}
    for path in documents(root):
        file = path.relative_to(root).as_posix()
        for named in names_in(path.read_text(encoding="utf-8"), file):
            first.setdefault((named.kind, named.name), named)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        project = Project(root)
        reasons = pool.map(lambda named: CHECKS[named.kind](project, named.name), first.values())
        found = zip(first.values(), reasons, strict=True)
        yield from sorted(Problem(named.file, named.line, reason) for named, reason in found if reason)


def _check_module(project: Project, name: str) -> str:
    if not project.is_ours(name):
        return "" if find_spec(name.partition(".")[0]) else f"python -m {name}: there is no such module"
    if project.module_file(name) is None:
        return f"python -m {name}: there is no such module to run"
    return _help(project.root, ["-m", name])


def _check_script(project: Project, name: str) -> str:
    if not (project.root / name).is_file():
        return f"python {name}: there is no such file"
    return _help(project.root, [name])


def _check_mention(project: Project, name: str) -> str:
    path = project.root.joinpath(*name.split("."))
    return "" if path.is_dir() or path.with_suffix(".py").is_file() else f"{name}: there is no such module"


def _check_target(project: Project, name: str) -> str:
    return "" if name in project.targets else f"make {name}: the Makefile has no such target"


def _check_file(project: Project, name: str) -> str:
    return "" if (project.root / name).is_file() else f"{name}: there is no such file"


def _check_variable(project: Project, name: str) -> str:
    return "" if name in project.variables else f"{name}: no code reads this variable"


CHECKS: dict[str, Callable[[Project, str], str]] = {
    "module": _check_module,
    "script": _check_script,
    "mention": _check_mention,
    "file": _check_file,
    "target": _check_target,
    "config": _check_file,
    "variable": _check_variable,
}


def _help(root: Path, command: list[str]) -> str:
    """Why `python COMMAND --help` does not work; empty where it does."""
    words = f"python {' '.join(command)} --help"
    try:
        asked = [sys.executable, *command, "--help"]
        done = subprocess.run(asked, cwd=root, capture_output=True, text=True, timeout=HELP_SECONDS)
    except subprocess.TimeoutExpired:
        return f"{words}: no answer within {HELP_SECONDS:g} s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
        return f"{words}: exit {done.returncode}: {last}"
    return "" if "usage" in done.stdout.lower() else f"{words}: says nothing of its usage"


def _setting_variables() -> set[str]:
    """MEGACONTEXT_<SECTION>_<FIELD> for every setting of the configurations."""
    from megacontext.config import DemoConfig
    from megacontext.config_loader import ENV_PREFIX, field_names
    from tools.legacy.config import LegacyConfig

    names = {*field_names(DemoConfig), *field_names(LegacyConfig)}
    return {ENV_PREFIX + name.replace(".", "_").upper() for name in names}


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
