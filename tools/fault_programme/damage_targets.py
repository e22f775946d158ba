"""The files that are damaged on purpose, and what a reader may make of them then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

VOCAB = 50_000


@dataclass(frozen=True)
class Target:
    """data: the file as it was written. cuts, flips: bytes at which it is damaged. problem: what a reader of a damaged
    file does wrong, or "".
    """

    name: str
    data: bytes
    cuts: Sequence[int]
    flips: Sequence[int]
    problem: Callable[[bytes], str]


def targets(folder: Path, size: int) -> Iterator[Target]:
    """All of them, of about `size` bytes where they can be of any size."""
    yield token_log(folder / "tokens", size)
    yield page_file(folder / "pages.ctx", size)
    yield snapshot_file(size)
    yield turn_file(size)
    yield info_file(folder / "sessions")
    yield lexical_segment(folder / "lexical", size)
    yield session_export(size)


# --- the truth ---


def token_log(folder: Path, size: int) -> Target:
    """Frames of some tokens each, the last of them synced."""
    from megacontext.errors import StoreError
    from megacontext.tree import token_frames as frames
    from megacontext.tree.token_log import TokenLog

    path, rng = folder / "tokens.log", np.random.default_rng(size)

    def opened(*, repair: bool = False) -> TokenLog:
        return TokenLog.open(path, vocab=VOCAB, fingerprint="f", repair=repair)

    with opened() as log:
        while path.stat().st_size < size:
            log.append(rng.integers(0, VOCAB, 40))
            (log.flush if rng.random() < 0.5 else log.sync)()
        whole = log.array(0, len(log))
    data = path.read_bytes()
    ends = [(frame.end, frame) for frame in frames.read_frames(lambda at, n: data[at : at + n], frames.HEADER_BYTES)]

    def floor(good: int) -> int:
        """Tokens in frames that end at byte `good` or before."""
        return sum(len(frame.tokens) for end, frame in ends if end <= good and frame.type == frames.TOKENS)

    def problem(damaged: bytes) -> str:
        path.write_bytes(damaged)
        least = floor(_first_difference(data, damaged))
        try:
            log = opened()
        except StoreError as error:
            if _first_difference(data, damaged) < frames.HEADER_BYTES:
                return ""  # without a header nothing is read
            if len(damaged) < len(data):
                return f"a cut log is not opened: {error}"
            log = opened(repair=True)
        with log:
            found = log.array(0, len(log))
            whole_frames = len(damaged) == frames.HEADER_BYTES or any(end == len(damaged) for end, _ in ends)
            noticed = log.truncated or whole_frames
        if len(found) != least or not np.array_equal(found, whole[:least]):
            return f"{len(found)} tokens are read, {least} are whole"
        return "" if noticed else "nothing was noticed"

    return Target("tokens.log", data, range(len(data)), range(len(data)), problem)


def turn_file(size: int) -> Target:
    from megacontext.tree.turn_file import Turn, pack_turn, parse_turns

    turns = [Turn(17 * at, 17 * at + 9, "assistant" if at % 2 else "user") for at in range(max(size // 35, 3))]
    lines = list(map(pack_turn, turns))
    data, ends = b"".join(lines), np.cumsum(list(map(len, lines)))

    def problem(damaged: bytes) -> str:
        found, _ = parse_turns(damaged, 17 * len(turns))
        least = int(np.searchsorted(ends, _first_difference(data, damaged), side="right"))
        return "" if found == turns[:least] else f"{found[least - 1 :]} after {least} whole turns"

    return Target("turns.jsonl", data, range(len(data)), range(len(data)), problem)


def info_file(root: Path) -> Target:
    import json
    from contextlib import suppress

    from megacontext.errors import StoreError
    from megacontext.session import INFO_NAME, Session

    def opened() -> Session:
        return Session.open(root, "talk", vocab=VOCAB, fingerprint="f", model="toy")

    opened().close()
    path = root / "talk" / INFO_NAME
    data = path.read_bytes()

    def problem(damaged: bytes) -> str:
        path.write_bytes(damaged)
        try:
            opened().close()
        except StoreError:
            return ""
        with suppress(ValueError):
            if json.loads(damaged) == json.loads(data):
                return ""  # white space
        return "it is believed"

    return Target("session.json", data, range(len(data)), range(len(data)), problem)


# --- what is derived ---


def page_file(path: Path, size: int) -> Target:
    """Three pages; the last one and the header are damaged."""
    import torch

    from megacontext.arena import Page
    from megacontext.errors import StoreError
    from megacontext.tree import ctx_format as ctx
    from megacontext.tree.page_codec import PageCodec, PageShape
    from megacontext.tree.page_file import PageFile

    codec = PageCodec(PageShape(2, 1, 4, max(size // 64, 1)), torch.float32)
    rng = torch.Generator().manual_seed(size)
    pages = [Page(*torch.randn(2, *codec.shape, generator=rng)) for _ in range(3)]

    def opened() -> PageFile:
        return PageFile.open(path, codec, fingerprint="f")

    file = opened()
    for number, page in enumerate(pages):
        file.write(number, page)
    file.frames.close()
    data, last = path.read_bytes(), file.frames.geometry.offset(2)
    frame = range(last, last + ctx.FRAME_HEAD + codec.nbytes)

    def problem(damaged: bytes) -> str:
        path.write_bytes(damaged)
        try:
            file = opened()
        except StoreError:
            return "" if _first_difference(data, damaged) < ctx.HEADER_BYTES else "it is not opened"
        found = [file.read(number) for number in range(3)]
        file.frames.close()
        if not all(read and torch.equal(read.keys, page.keys) for read, page in zip(found[:2], pages, strict=False)):
            return "a page that is whole is not read"
        return "" if found[2] is None else "the damaged page is read"

    return Target("pages.ctx", data, frame, [*range(ctx.HEADER_BYTES), *frame], problem)


def snapshot_file(size: int) -> Target:
    import torch

    from megacontext.tree import snapshot

    state = {"length": 12, "tail": [1, 2], "rows": torch.arange(size // 4, dtype=torch.float32), "none": None}
    data = snapshot.pack(state, "f")

    def problem(damaged: bytes) -> str:
        try:
            snapshot.unpack(damaged, "f")
        except ValueError:
            return ""
        return "it is read"

    return Target("view.snap", data, range(len(data)), range(len(data)), problem)


def lexical_segment(folder: Path, size: int) -> Target:
    """The longest segment of an index; the index must give the votes of one that nothing happened to."""
    from megacontext.focus.lexical import format as lex
    from megacontext.focus.lexical_store import LexicalStore

    unit = 16
    rng = np.random.default_rng(size)
    tokens: list[int] = rng.integers(0, 12, 2 * unit * max(size // 2 // 16 // unit, 1) + 4 * unit + 60).tolist()
    sizes: dict[str, Any] = {"block": 4, "window": 20, "unit": unit}

    def answers() -> tuple[list[Any], int]:
        store = LexicalStore.open(folder, len(tokens), lambda a, b: tokens[a:b], "f", **sizes)
        store.add(tokens[:8])
        found = [part.tolist() for part in store.scores(np.ones(20))]
        damaged = store.damaged
        store.close()
        return found, damaged

    store = LexicalStore.open(folder, 0, lambda a, b: tokens[a:b], "f", **sizes)
    store.add(tokens)
    store.close()
    right, _ = answers()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    name = max(files, key=lambda name: len(files[name]))
    data, count = files[name], int(name[13:25]) - int(name[:12])
    table = -(-count // lex.GROUP) * 4
    places = [*range(lex.HEADER_BYTES + table), *range(len(data) - 16 * count, len(data))]

    def problem(damaged: bytes) -> str:
        for path in folder.iterdir():
            path.unlink()
        for other, content in files.items():
            (folder / other).write_bytes(damaged if other == name else content)
        found, _ = answers()
        return "" if found == right else "it gives other votes"

    return Target("lexical/", data, places, places, problem)


def session_export(size: int) -> Target:
    from megacontext.sessions.portable import Portable, pack, unpack
    from megacontext.sessions.transcript import Message
    from megacontext.tree.turn_file import Turn

    tokens = np.arange(max(size // 8, 4), dtype=np.uint32)
    turns = [Turn(0, 2, "user"), Turn(2, 4, "assistant")]
    messages = [Message("user", "hello"), Message("assistant", "yes")]
    whole = Portable("talk", "toy", "w", "f", VOCAB, tokens, turns, messages)
    data = pack(whole)

    def problem(damaged: bytes) -> str:
        try:
            found = unpack(damaged)
        except ValueError:
            return ""
        same = np.array_equal(found.tokens, tokens) and (found.turns, found.messages) == (turns, messages)
        return "" if same and (found.name, found.fingerprint) == ("talk", "f") else "it is believed"

    return Target("an export", data, range(len(data)), range(len(data)), problem)


def _first_difference(one: bytes, other: bytes) -> int:
    """The first byte in which they differ, or the shorter one's end."""
    size = min(len(one), len(other))
    different = np.flatnonzero(np.frombuffer(one, np.uint8, size) != np.frombuffer(other, np.uint8, size))
    return int(different[0]) if len(different) else size
