"""Nothing that comes from outside is ever run: read by syntax tree, in every file of the packages."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("nanochat", "megacontext", "tools")
RUNS_CODE = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open"),
}


@cache
def trees() -> dict[str, ast.Module]:
    """Every file, parsed."""
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


@cache
def calls() -> tuple[tuple[str, str, ast.Call], ...]:
    """Where, what is called, and the call."""
    nodes = [(file, node) for file, tree in trees().items() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return tuple((f"{file}:{node.lineno}", ast.unparse(node.func), node) for file, node in nodes)


def test_nothing_is_called_that_runs_what_it_is_given() -> None:
    assert [f"{where} calls {name}" for where, name, _ in calls() if name in RUNS_CODE] == []


def test_weights_are_loaded_as_weights_only_and_arrays_without_pickles() -> None:
    found = [(where, name, call) for where, name, call in calls() if name in ("torch.load", "np.load", "numpy.load")]
    assert found
    for where, name, call in found:
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if name == "torch.load":
            assert given.get("weights_only") == "True", where
        assert given.get("allow_pickle", "False") == "False", where


def test_no_shell_reads_a_command() -> None:
    assert [where for where, _, call in calls() for word in call.keywords if word.arg == "shell"] == []


def test_archives_are_taken_member_by_member() -> None:
    assert [where for where, name, _ in calls() if name.endswith((".extractall", ".unpack_archive"))] == []


def test_unpickling_is_restricted_to_one_class() -> None:
    """nanochat/tokenizer_files.py: all that it may find is a tiktoken.Encoding."""
    classes = [
        (file, node) for file, tree in trees().items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    ]
    found = [(file, node) for file, node in classes if any("Unpickler" in ast.unparse(base) for base in node.bases)]
    assert [file for file, _ in found] == ["nanochat/tokenizer_files.py"]
    assert "find_class" in {part.name for part in found[0][1].body if isinstance(part, ast.FunctionDef)}
