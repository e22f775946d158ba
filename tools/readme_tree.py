"""Keep the tree in README.md true: one line a file, said in the file's own first sentence.

A line that stands keeps its words; new files come in, files that are gone go out. A test compares the two.

    python -m tools.readme_tree
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?<=<!-- tree -->\n```text\n).*?(?=```\n<!-- /tree -->)", re.DOTALL)
LINE = re.compile(r"^(?P<indent> *)(?P<name>[\w.-]+/?)(?: +(?P<words>\S.*))?$")
WIDTH, LONGEST = 30, 84  # columns of a name, and of what is said of it
TOP = ("configs/", "nanochat/", "megacontext/", "tools/", "tests/", "docs/", "dev/", "requirements/", "artifacts/")
IN_FULL = TOP[:4]  # the other folders are one line each
PURPOSES = {
    "configs/": "one YAML file = one typed config; the file's name is the run's name",
    "nanochat/": "the small LLM runtime: upstream's file names, public names and checkpoint format",
    "megacontext/": "virtual memory for context",
    "tools/": "command-line tools",
    "tests/": "mirrors the packages; test_architecture.py guards imports, configs and this tree",
    "docs/": "glossary, formats, decisions",
    "dev/": "LOG.md: dated experiments, the negative ones too",
    "requirements/": "what is installed: pinned and hashed, torch apart",
    "artifacts/": "models, corpus, logs, sessions, checkpoints (not in git)",
    "megacontext/baselines/": "other memories to compare with: one paper, one file, one dataclass",
    "megacontext/evaluation/": "tasks, and the comparison of caches on them",
    "megacontext/evaluation/tasks/": "one file a kind of task",
    "megacontext/focus/": "what deserves detail: scorers, and the allocator that acts on them",
    "megacontext/gist/": "stand-ins for blocks inside attention",
    "megacontext/telemetry/": "events, metrics, and where they go",
    "megacontext/testing/": "conformance suites that a new cache or model inherits; toy models",
    "megacontext/training/": "labels, losses, phases",
    "megacontext/tree/": "history: the token log, and the tree above it",
    "configs/compare/": "what a comparison runs: tasks, caches, seeds",
}


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    known = listed(text)
    lines = [_line(path, known.get(path) or purpose(path)) for path in on_disk()]
    readme.write_text(BLOCK.sub(lambda _: "".join(lines), text), encoding="utf-8", newline="\n")
    print(f"README.md: {len(lines)} lines in the tree, {len(set(on_disk()) - set(known))} new")
    return 0


def listed(readme: str) -> dict[str, str]:
    """Path (folders end in a slash) -> the words beside it, as the README has them."""
    block = BLOCK.search(readme)
    if block is None:
        raise ValueError("README.md has no tree: a text block between <!-- tree --> and <!-- /tree -->")
    found: dict[str, str] = {}
    parents: list[str] = []
    for line in filter(None, block[0].splitlines()):
        match = LINE.match(line)
        if match is None:
            raise ValueError(f"README.md's tree has a line that is not `path  words`: {line!r}")
        depth = len(match["indent"]) // 2
        path = "".join(parents[:depth]) + match["name"]
        parents[depth:] = [match["name"]]
        found[path] = match["words"] or ""
    return found


def on_disk() -> list[str]:
    """Every folder and file that belongs into the tree, folder by folder, files by name."""
    paths: list[str] = []
    for folder in TOP:
        paths.append(folder)
        if folder in IN_FULL:
            paths += _inside(ROOT / folder)
    return paths


def purpose(path: str) -> str:
    """The first sentence of a module's docstring or of a YAML file's comment."""
    file = ROOT / path
    if path in PURPOSES:
        return PURPOSES[path]
    if path.endswith(".yaml"):
        return _sentence(file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# "))
    source = file / "__init__.py" if path.endswith("/") else file
    text = source.read_text(encoding="utf-8") if source.is_file() else ""
    return _sentence(ast.get_docstring(ast.parse(text)) or "")


def _inside(folder: Path) -> list[str]:
    paths = []
    for path in sorted(folder.iterdir(), key=lambda p: (p.is_dir(), p.name)):
        name = path.relative_to(ROOT).as_posix()
        if path.is_dir() and any(file for pattern in ("*.py", "*.yaml") for file in path.rglob(pattern)):
            paths += [f"{name}/", *_inside(path)]
        elif path.suffix in (".py", ".yaml") and path.name != "__init__.py":
            paths.append(name)
    return paths


def _sentence(text: str) -> str:
    sentence = re.split(r"\.(?:\s|$)", text.partition("\n\n")[0].replace("\n", " "), maxsplit=1)[0].strip()
    while len(sentence) > LONGEST and (shorter := re.sub(r"[:;,] [^:;,]*$", "", sentence)) != sentence:
        sentence = shorter
    return sentence


def _line(path: str, words: str) -> str:
    depth = path.rstrip("/").count("/")
    name = path.rstrip("/").rpartition("/")[2] + ("/" if path.endswith("/") else "")
    return f"{'  ' * depth + name:<{WIDTH}} {words}".rstrip() + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
