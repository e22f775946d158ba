"""What reads sessions without opening them, to be fuzzed: all of a session's files at once, and what mends them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from tools.fault_programme.fuzz_target import Target


def inspection_targets(folder: Path) -> Iterator[Target]:
    """All of them. folder: for the session."""
    yield verified_session(folder / "verified")


def verified_session(folder: Path) -> Target:
    """Verify, repair, verify again. The first byte of an input says which file it is."""
    from megacontext.errors import StoreError
    from tools.inspection.ctx_file import ctx_lines
    from tools.inspection.repair import repair
    from tools.inspection.states import as_json, state_lines
    from tools.inspection.verify import verify

    session = _session(folder)
    files = {path: path.read_bytes() for path in sorted(session.rglob("*")) if path.is_file()}
    names = list(files)

    def parse(data: bytes) -> None:
        changed = names[data[0] % len(names)] if data else names[0]
        shutil.rmtree(session)
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[1:] if path == changed else content)
        found = verify(session)
        as_json(found, []), state_lines(found)
        if changed.suffix == ".ctx":
            ctx_lines(changed)
        repair(session, lambda step: None)

    seeds = [bytes([at]) + content for at, content in enumerate(files.values())]
    return Target("a session's files", seeds, parse, (StoreError,), share=0.05)


def _session(folder: Path) -> Path:
    """A session with every kind of file."""
    from tools.fault_programme import toy_talk

    loaded = toy_talk.load("windows", folder / "model")
    talk = toy_talk.open_talk(loaded, folder, lambda logits: int(logits.argmax()), max_tokens=9)
    for number in range(3):
        talk.say(f"This is sentence number {number}, and the house is red.")
    talk.close()
    return folder / "talk"
