"""The sample corpus: real text that ships with every Python, so that benchmarks need no download.

Three kinds of documents, prose first: the topics of the language reference (`pydoc_data`), the docstrings of the
standard library, and a few of its sources. Files are read, never imported (some modules act when imported). The order
is fixed, so one Python installation always gives the same bytes; another version gives other bytes, and the manifest
names both the version and the hash. Standard library only.

    python tools/sample_corpus.py artifacts/corpus/sample.txt
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import platform
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

FORMAT = 1
MIN_BYTES = 64_000  # a document: about 16k tokens, long enough to be cut into any history a quick benchmark needs
MIN_DOCUMENTS = 12
SEPARATOR = "\n\n\n"
SOURCES = (
    "argparse",
    "difflib",
    "doctest",
    "enum",
    "inspect",
    "ipaddress",
    "mailbox",
    "subprocess",
    "tarfile",
    "typing",
)
NOT_PROSE = frozenset(
    ("antigravity", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "this", "turtledemo")
)

Document = tuple[str, str]  # (title, text)


@dataclass(frozen=True)
class Entry:
    """Where one document stands in the corpus file: bytes [start, end), UTF-8."""

    title: str
    start: int
    end: int


@dataclass(frozen=True)
class Manifest:
    """What is in a corpus file, and what made it."""

    file: str
    sha256: str
    bytes: int
    python: str
    documents: tuple[Entry, ...]
    format: int = FORMAT


def build(path: Path) -> Manifest:
    """Write the corpus to `path` and its manifest beside it (`.json`); both replaced whole, or not at all.

    Raises RuntimeError when this Python ships without the sources that the corpus is made of.
    """
    texts = _collect(Path(sysconfig.get_paths()["stdlib"]))
    if len(texts) < MIN_DOCUMENTS:
        raise RuntimeError(
            f"the sample corpus needs {MIN_DOCUMENTS} documents, and {sys.executable} gives {len(texts)}: "
            "its standard library comes without sources. Run this with a full Python installation."
        )
    body, entries = _assemble(texts)
    manifest = Manifest(
        file=path.name,
        sha256=hashlib.sha256(body).hexdigest(),
        bytes=len(body),
        python=platform.python_version(),
        documents=tuple(entries),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, body)
    _replace(manifest_path(path), json.dumps(asdict(manifest), indent=1).encode() + b"\n")
    return manifest


def documents(path: Path) -> list[Document]:
    """The documents of a built corpus, in order. Raises FileNotFoundError, or ValueError where the hash differs."""
    manifest = read_manifest(path)
    body = path.read_bytes()
    if hashlib.sha256(body).hexdigest() != manifest.sha256:
        raise ValueError(f"{path} is not the file that {manifest_path(path)} describes; build the corpus again")
    return [(entry.title, body[entry.start : entry.end].decode()) for entry in manifest.documents]


def read_manifest(path: Path) -> Manifest:
    """The manifest beside corpus file `path`. Raises FileNotFoundError, or ValueError where it cannot be understood."""
    fields = json.loads(manifest_path(path).read_text(encoding="utf-8"))
    try:
        entries = tuple(Entry(**entry) for entry in fields.pop("documents"))
        manifest = Manifest(documents=entries, **fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{manifest_path(path)} is not a corpus manifest: {error}") from error
    if manifest.format != FORMAT:
        raise ValueError(f"{manifest_path(path)} has format {manifest.format}, this program reads {FORMAT}")
    return manifest


def is_built(path: Path) -> bool:
    """Whether a whole corpus with its manifest stands at `path` (whichever Python made it)."""
    try:
        return len(documents(path)) >= MIN_DOCUMENTS
    except (OSError, ValueError):
        return False


def manifest_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _collect(library: Path) -> list[Document]:
    """All documents in their order: reference topics, docstrings, sources."""
    sources = [library / f"{name}.py" for name in SOURCES]
    return [
        *_grouped("language reference", _topics()),
        *_grouped("standard library docstrings", _docstrings(library, without=set(SOURCES))),
        *((path.name, _read(path)) for path in sources if path.is_file() and path.stat().st_size >= MIN_BYTES),
    ]


def _grouped(title: str, pieces: Iterable[Document]) -> Iterator[Document]:
    """Join neighbouring pieces until each document holds MIN_BYTES; what is left at the end joins the last one."""
    groups: list[list[Document]] = [[]]
    for piece in pieces:
        if sum(len(text.encode()) for _, text in groups[-1]) >= MIN_BYTES:
            groups.append([])
        groups[-1].append(piece)
    if len(groups) > 1 and sum(len(text.encode()) for _, text in groups[-1]) < MIN_BYTES:
        groups[-2].extend(groups.pop())
    for group in filter(None, groups):
        yield f"{title}: {group[0][0]} to {group[-1][0]}", "\n\n".join(text for _, text in group)


def _topics() -> Iterator[Document]:
    """Language-reference topics by name; a topic that mostly repeats longer ones is left out."""
    try:
        from pydoc_data import topics  # not in every minimal Python
    except ImportError:
        return
    seen: set[str] = set()
    kept: dict[str, str] = {}
    for name, text in sorted(topics.topics.items(), key=lambda item: (-len(item[1]), item[0])):
        paragraphs = {part for part in text.split("\n\n") if len(part) > 80}
        if len(paragraphs & seen) * 2 <= len(paragraphs):
            kept[name] = text.strip()
        seen |= paragraphs
    yield from sorted(kept.items())


def _docstrings(library: Path, without: set[str]) -> Iterator[Document]:
    """One piece a module: its docstrings in file order, each under its qualified name; no docstring twice."""
    seen: set[str] = set()
    for path in _modules(library, without):
        name = ".".join(path.relative_to(library).with_suffix("").parts).removesuffix(".__init__")
        found = [(title, text) for title, text in _docstrings_of(path, name) if text not in seen]
        seen.update(text for _, text in found)
        if found:
            yield name, "\n\n".join(f"{title}\n\n{text}" for title, text in found)


def _modules(library: Path, without: set[str]) -> Iterator[Path]:
    """Public source files of the standard library, tests left out, in a fixed order."""
    names = {name for name in sys.stdlib_module_names if not name.startswith("_")} - NOT_PROSE - without
    for name in sorted(names):
        if (library / f"{name}.py").is_file():
            yield library / f"{name}.py"
        for path in sorted((library / name).rglob("*.py"), key=lambda path: path.as_posix()):
            if not {"test", "tests", "idle_test"} & set(path.relative_to(library).parts):
                yield path


def _docstrings_of(path: Path, name: str) -> Iterator[Document]:
    try:
        tree = ast.parse(_read(path))
    except (SyntaxError, ValueError):
        return  # templates and deliberately broken files
    stack: list[tuple[str, ast.AST]] = [(name, tree)]
    while stack:
        title, node = stack.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text and len(text) > 40:
                yield title, text
        inner = [
            n
            for n in ast.iter_child_nodes(node)
            if isinstance(n, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        ]
        stack.extend((f"{title}.{child.name}", child) for child in reversed(inner))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _assemble(texts: list[Document]) -> tuple[bytes, list[Entry]]:
    parts, entries, offset = [], [], 0
    for title, text in texts:
        data = text.strip().encode()
        entries.append(Entry(title=title, start=offset, end=offset + len(data)))
        parts.append(data + SEPARATOR.encode())
        offset += len(parts[-1])
    return b"".join(parts), entries


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sample_corpus", description="Build the sample corpus from this Python.")
    parser.add_argument("path", type=Path, help="where the text goes; the manifest stands beside it as .json")
    manifest = build(parser.parse_args(argv).path)
    print(f"{manifest.bytes:,} bytes, {len(manifest.documents)} documents, sha256 {manifest.sha256}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
