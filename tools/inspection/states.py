"""The states of a session's files as text, and for programs. Values in, lines out."""

from __future__ import annotations

import json

from tools.inspection.verify import Verified


def state_lines(found: Verified) -> list[str]:
    """A line a file, and one that sums up."""
    names = max(len(file.name) for file in found.files)
    told = max(len(file.told) for file in found.files)
    sizes = max(len(f"{file.bytes:,}") for file in found.files)
    lines = [f"{f.name:<{names}}  {f.told:<{told}}  {f.bytes:>{sizes},} bytes  {f.note}" for f in found.files]
    return [*lines, found.summary]


def as_json(found: Verified, done: list[str]) -> str:
    """One JSON object. done: what a repair did."""
    files = [file._asdict() for file in found.files]
    whole = {
        "session": found.folder.name,
        "folder": found.folder.as_posix(),
        "tokens": found.tokens,
        "exit_code": found.exit_code,
        "summary": found.summary,
        "repaired": done,
        "files": files,
    }
    return json.dumps(whole, ensure_ascii=False)
