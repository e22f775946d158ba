"""Decisions that the tree itself can be asked about: which way imports point, where a dependency may enter, and that
README and configuration say what is there. Read by syntax tree; nothing is imported but where a test says so."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("nanochat", "megacontext", "tools")

# Anyone may use these; they use only each other.
VOCABULARY = ("span", "errors", "config", "config_loader", "yaml_loader", "telemetry")
# Below may be imported from above, never the other way round, and never sideways.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("context", "plotting"),
    ("arena", "ring", "replay", "edit_ledger"),
    ("gist", "models"),
    ("tree",),
    ("view", "focus"),
    ("view_pass", "memory_check"),
    ("reread", "recompute"),
    ("delta_nll",),
    ("tick_report",),
    ("cache_parts",),
    ("cache_state", "refocus"),
    ("cache", "baselines"),
    ("session", "turns"),
    ("sessions",),
    ("conversation",),
    ("evaluation", "training", "testing"),
)
EVALUATION: tuple[tuple[str, ...], ...] = (  # the same inside megacontext/evaluation
    ("names", "flags", "settings"),
    ("episodes",),
    ("tasks", "oracles", "ablations"),
    ("corpus", "caches"),
    ("model",),
    ("comparison",),
    ("speed", "reporting"),
    ("compare", "report"),
)
ENTRY_POINTS = ("nanochat.chat", "nanochat.train")  # the only modules of nanochat that know megacontext
OPTIONAL = ("wandb", "gguf", "transformers", "matplotlib", "pyarrow")  # each enters at one place, lazily
CONFIG_SCHEMAS = {  # by folder, or by file
    "configs": "megacontext.config:DemoConfig",
    "configs/SampleText_TinyGPT2.yaml": "tools.legacy.config:LegacyConfig",
    "configs/Gutenberg_SmolLM3.yaml": "tools.legacy.config:LegacyConfig",
    "configs/compare": "megacontext.evaluation.comparison.matrix:CompareConfig",
    "configs/compare/tuned.yaml": "megacontext.evaluation.comparison.tuning:Tuned",
}


class Import(NamedTuple):
    """One imported module, where, and whether importing the file imports it at once."""

    file: str
    line: int
    module: str
    eager: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def python_files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(Import(path.relative_to(ROOT).as_posix(), *found) for found in _imports(tree, eager=True))


def _imports(node: ast.AST, eager: bool) -> Iterator[tuple[int, str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name, eager) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative imports hide where a thing comes from"
            yield from ((child.lineno, name, eager) for name in _targets(child))
        else:
            lazy = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or _for_types_only(child)
            yield from _imports(child, eager and not lazy)


def _targets(node: ast.ImportFrom) -> list[str]:
    """`from package import module` names the module, `from module import name` the module it stands in."""
    base = node.module or ""
    inner = [f"{base}.{alias.name}" for alias in node.names]
    return [name if base.startswith(PACKAGES) and is_module(name) else base for name in inner]


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def layer(module: str) -> int:
    """The place of a megacontext module: -1 for the vocabulary, else the index in LAYERS."""
    part = module.split(".")[1]
    if part in VOCABULARY:
        return -1
    for index, names in enumerate(LAYERS):
        if part in names:
            return index
    raise AssertionError(f"megacontext/{part} has no layer yet: give it one in LAYERS of tests/test_architecture.py")


def ours(path: Path) -> Iterator[Import]:
    return (found for found in imports_of(path) if within(found.module, "megacontext") and "." in found.module)


@pytest.mark.parametrize("path", sorted((ROOT / "megacontext").rglob("*.py")), ids=module_name)
def test_imports_inside_megacontext_point_down(path: Path) -> None:
    name = module_name(path)
    if "." not in name:
        return
    part, place = name.split(".")[1], layer(name)
    wrong = [
        str(found)
        for found in ours(path)
        if found.module.split(".")[1] != part and layer(found.module) >= max(place, 0)
    ]
    assert not wrong


def test_imports_inside_evaluation_point_down() -> None:
    places = {name: place for place, names in enumerate(EVALUATION) for name in names}
    wrong = []
    for path in sorted((ROOT / "megacontext" / "evaluation").rglob("*.py")):
        part = (*module_name(path).split("."), "")[2]
        for found in ours(path):
            target = (*found.module.split("."), "")[2]
            if part and within(found.module, "megacontext.evaluation") and target != part:
                assert {part, target} <= places.keys(), f"{found}: give both a place in EVALUATION of this file"
                wrong += [str(found)] if places[target] >= places[part] else []
    assert not wrong


def test_nanochat_does_not_know_megacontext_but_for_its_entry_points() -> None:
    wrong = [
        str(found)
        for path in sorted((ROOT / "nanochat").rglob("*.py"))
        if not any(within(module_name(path), entry) for entry in ENTRY_POINTS)
        for found in imports_of(path)
        if found.module.split(".")[0] in ("megacontext", "tools")
    ]
    assert not wrong


def test_nobody_imports_an_entry_point_or_a_tool() -> None:
    def may(path: Path, module: str) -> bool:
        if within(module, "tools"):
            return within(module_name(path), "tools")
        return any(within(module_name(path), e) and within(module, e) for e in ENTRY_POINTS)

    wrong = [
        str(found)
        for path in python_files()
        for found in imports_of(path)
        if any(within(found.module, e) for e in ("tools", *ENTRY_POINTS)) and not may(path, found.module)
    ]
    assert not wrong


def test_baselines_need_only_the_hook_and_the_plain_caches() -> None:
    nanochat = ("nanochat.hook", "nanochat.attention", "nanochat.kv_cache")
    allowed = (*nanochat, "megacontext.baselines", "megacontext.errors")
    wrong = [
        str(found)
        for path in sorted((ROOT / "megacontext" / "baselines").rglob("*.py"))
        for found in imports_of(path)
        if found.module.split(".")[0] in PACKAGES and not any(within(found.module, name) for name in allowed)
    ]
    assert not wrong


@pytest.mark.parametrize("package", OPTIONAL)
def test_an_optional_package_enters_at_one_place_and_lazily(package: str) -> None:
    found = [entry for path in python_files() for entry in imports_of(path) if within(entry.module, package)]
    assert len({entry.file for entry in found}) <= 1, [str(entry) for entry in found]
    assert not [str(entry) for entry in found if entry.eager]


@pytest.mark.parametrize("module", ["span", "context", "config", "config_loader", "errors", "telemetry.events"])
def test_values_and_configuration_never_load_torch(module: str) -> None:
    if not is_module(f"megacontext.{module}"):
        pytest.skip("not there yet")
    program = f"import sys, megacontext.{module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or f"megacontext.{module} loads torch"


def test_provisioning_needs_the_standard_library_alone() -> None:
    files = [ROOT / "tools" / "bootstrap_env.py", ROOT / "tools" / "sample_corpus.py"]
    files += sorted((ROOT / "tools" / "bootstrap").glob("*.py"))
    allowed = {*sys.stdlib_module_names, "tools"}
    wrong = [str(found) for f in files for found in imports_of(f) if found.module.split(".")[0] not in allowed]
    assert not wrong


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_config_file_builds(path: Path) -> None:
    from megacontext.config_loader import load_config

    file = path.relative_to(ROOT)
    schema = CONFIG_SCHEMAS.get(file.as_posix()) or CONFIG_SCHEMAS.get(file.parent.as_posix())
    assert schema, f"{file.parent} has no schema yet: name it in CONFIG_SCHEMAS of this file"
    module, _, name = schema.partition(":")
    loaded = load_config(path, getattr(importlib.import_module(module), name), environ={})
    assert loaded.run == path.stem


def test_the_tree_in_the_readme_is_the_tree_on_disk() -> None:
    from tools.readme_tree import listed, on_disk

    in_readme, there = set(listed((ROOT / "README.md").read_text(encoding="utf-8"))), set(on_disk())
    hint = "`make tree` writes it anew"
    assert in_readme == there, f"missing {sorted(there - in_readme)}, gone {sorted(in_readme - there)}: {hint}"


def test_no_file_names_a_machine_path() -> None:
    machine = re.compile(r"(?<![\w.])/(work|root|home/\w+|Users/\w+)/|[A-Z]:\\\\?Users", re.ASCII)
    texts = [path for pattern in ("*.md", "*.toml", "Makefile") for path in ROOT.glob(pattern)]
    for folder in (*PACKAGES, "tests", "configs", "docs", "dev", "requirements"):
        texts += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".yaml", ".txt")]
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if machine.search(line)
    ]
    assert not wrong
