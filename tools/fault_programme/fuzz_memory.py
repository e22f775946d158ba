"""The parsers of a memory's files, to be fuzzed. `sealed` sets checksums right again, so that changes get past them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tools.fault_programme.fuzz_target import JSON, SAFETENSORS, Target, Tree, crc


def memory_targets(folder: Path) -> Iterator[Target]:
    """All of them. folder: for those that read files."""
    yield ctx_file()
    yield earlier_ctx()
    yield page_codec()
    yield snapshot_file()
    yield kept_state(folder / "kept")
    yield token_frames()
    yield turn_file()
    yield session_folder(folder / "session")
    yield session_export()
    yield lexical_segment(folder / "lexical")


def ctx_file() -> Target:
    from megacontext.tree import ctx_format as ctx

    geometry = ctx.Geometry(ctx.PAGES, "int8", 2, 1, 4, 8, 96)
    head, frame = ctx.pack_header(geometry, "f")[: ctx.HEADER_BYTES], ctx.pack_frame(3, bytes(range(96)))

    def parse(data: bytes) -> None:
        ctx.check_header(data, geometry, "f")
        ctx.unpack_frame(data[ctx.HEADER_BYTES :], 3, geometry)
        found, _ = ctx.unpack_header(data)
        ctx.unpack_frame(data[ctx.HEADER_BYTES :], 3, found)

    def sealed(data: bytes) -> bytes:
        head, frame = data[: ctx.HEADER_BYTES], data[ctx.HEADER_BYTES :]
        body = frame[ctx.FRAME_HEAD :]
        frame = frame[:20] + crc(body) + frame[24:28]
        return head[:60] + crc(head[:60]) + frame + crc(frame) + body

    return Target(".ctx", [head + frame], parse, (ValueError,), [ctx.MAGIC, ctx.WORD], sealed)


def page_codec() -> Target:
    import torch

    from megacontext.arena import Page
    from megacontext.tree.page_codec import PageCodec, PageShape

    codecs = [PageCodec(PageShape(2, 1, 4, 8), torch.float32, kind) for kind in ("model", "int8", "int4")]
    page = Page(*torch.randn(2, 2, 1, 4, 8, generator=torch.Generator().manual_seed(0)))

    def parse(data: bytes) -> None:
        fitting = [codec for codec in codecs if len(data) == codec.nbytes]
        for codec in fitting or [codecs[len(data) % 3]]:  # which refuses it
            codec.decode(data)

    return Target("page codec", [codec.encode(page) for codec in codecs], parse, (ValueError,))


def snapshot_file() -> Target:
    import torch

    from megacontext.tree import snapshot

    state = {"length": 3, "tail": [1, 2], "rings": {"0": {"raw": torch.ones(1, 2)}}, "none": None, "x": np.arange(3)}
    seeds = [snapshot.pack(state, "f"), snapshot.pack({}, "f")]
    words = [b'"#"', b"F32", b"I64", b"data_offsets", b"shape", b"__metadata__", b"state", b'{\\"#\\": \\"x\\"}']
    parse = lambda data: snapshot.unpack(data, "f")  # noqa: E731
    return Target("view.snap", seeds, parse, (ValueError,), words, _sealed_snapshot, tree=STATE)


def kept_state(folder: Path) -> Target:
    """What a snapshot says, taken in by a memory: it says why it cannot, and is empty then."""
    from megacontext.tree.memory_files import VIEW_NAME
    from tools.fault_programme import toy_talk

    loaded = toy_talk.load("windows", folder / "model")
    talk = toy_talk.open_talk(loaded, folder, lambda logits: int(logits.argmax()), max_tokens=9)
    for number in range(6):
        talk.say(f"This is sentence number {number}, and the house is red.")
    talk.files.flush()
    path, tokens = folder / "talk" / VIEW_NAME, talk.session.log.array(0, len(talk.session))
    files, cache = talk.files, talk.cache
    seed = path.read_bytes()

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        cache.reset()
        files.bring_back(cache, tokens, loaded.model)
        assert cache.length <= len(tokens)
        cache.context.check()

    return Target("kept state", [seed], parse, (), (), _sealed_snapshot, share=0.1, tree=STATE)


def _sealed_snapshot(data: bytes) -> bytes:
    from megacontext.tree import snapshot

    at, payload = struct.calcsize("<8sHH4x"), data[snapshot.HEADER_BYTES :]
    head = data[:at] + struct.pack("<QI", len(payload), zlib.crc32(payload)) + data[at + 12 : 60]
    return head + crc(head) + payload


def _load_state(data: bytes) -> object:
    header = SAFETENSORS.load(data[64:])
    return {**header, "__metadata__": json.loads(header["__metadata__"]["state"])}


def _dump_state(data: bytes, value: Any) -> bytes:
    if isinstance(value, dict) and "__metadata__" in value:
        value = {**value, "__metadata__": {"state": json.dumps(value["__metadata__"])}}
    return data[:64] + SAFETENSORS.dump(data[64:], value)


STATE = Tree(_load_state, _dump_state)


def token_frames() -> Target:
    from megacontext.tree import token_frames as frames

    header = frames.pack_header(frames.Header(300, frames.digest_of("f")))
    parts = [frames.pack_tokens(np.arange(5), 0), frames.pack_synced(200, 1), frames.pack_tokens(np.arange(2), 2)]

    def parse(data: bytes) -> None:
        for frame in frames.read_frames(lambda at, size: data[at : at + size], frames.HEADER_BYTES):
            frame.tokens if frame.type == frames.TOKENS else frame.synced  # noqa: B018 - computed when asked
        frames.durable_length(data)
        frames.unpack_header(data)

    def sealed(data: bytes) -> bytes:
        found, at = bytearray(data), frames.HEADER_BYTES
        found[60:64] = crc(data[:60])
        for part in parts:
            end = at + len(part) - 4
            found[end : end + 4] = crc(bytes(found[at:end]))
            at = end + 4
        return bytes(found)

    return Target("tokens.log", [header + b"".join(parts)], parse, (ValueError,), [frames.WORD, b"\1\2"], sealed)


def turn_file() -> Target:
    from megacontext.tree.turn_file import Turn, pack_turn, parse_turns

    data = b"".join(pack_turn(Turn(3 * at, 3 * at + 2, "user")) for at in range(4)) + b'[12, 13, "document"]\n'

    def sealed(data: bytes) -> bytes:
        bodies = [line.rpartition(b", ")[0] for line in data.splitlines()]
        return b"".join(body + f', "{zlib.crc32(body):08x}"]\n'.encode() for body in bodies)

    return Target("turns.jsonl", [data], lambda data: parse_turns(data, 20), (), [b'"user"', b", "], sealed)


def session_folder(folder: Path) -> Target:
    """session.json, by the way of what lists sessions."""
    from megacontext.errors import StoreError
    from megacontext.session import INFO_NAME, Session, checksum_of, is_intact
    from megacontext.sessions.stored import read_session
    from nanochat.files import read_json

    with Session.open(folder, "talk", vocab=300, fingerprint="f", model="toy") as session:
        session.append([1, 2, 3])
    path = folder / "talk" / INFO_NAME

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        found = read_json(path)
        if isinstance(found, dict):
            is_intact(found)
        read_session(folder / "talk")

    def sealed(data: bytes) -> bytes:
        try:
            info = json.loads(data)
            return json.dumps({**info, "check": checksum_of(info)}).encode()
        except (ValueError, TypeError, AttributeError, RecursionError):
            return data

    words = [b'"vocab"', b'"fingerprint"', b'"version"', b'"format"', b'"check"', b'"model"', b"300"]
    return Target("session.json", [path.read_bytes()], parse, (StoreError, ValueError), words, sealed, tree=JSON)


def earlier_ctx() -> Target:
    from megacontext.tree import legacy_ctx as legacy

    heads = [
        struct.pack("<IHHHHH32s18s", legacy.MAGIC, 1, 1, 32, 4, 1, b"toy", b""),
        struct.pack("<IHHHHHQ32s10s", legacy.MAGIC, 1, 0, 32, 4, 0, 6, b"toy", b""),
    ]
    seeds = [head + bytes(range(24)) for head in heads]
    return Target("earlier .ctx", seeds, lambda data: legacy.read_header(data[:64], len(data)), (ValueError,))


def session_export() -> Target:
    from hashlib import sha256

    from megacontext.sessions.portable import Portable, pack, unpack
    from megacontext.sessions.transcript import Message
    from megacontext.tree.turn_file import Turn

    turns, messages = [Turn(0, 2, "user"), Turn(2, 4, "assistant")], [Message("user", "a"), Message("assistant", "b")]
    seed = pack(Portable("talk", "toy", "w", "f", 300, np.arange(4, dtype=np.uint32), turns, messages))

    def sealed(data: bytes) -> bytes:
        """The manifest's hash; parts that were changed stay refused."""
        size = int.from_bytes(data[:8], "little")
        try:
            header = json.loads(data[8 : 8 + size])
            header["__metadata__"]["sha256"] = sha256(header["__metadata__"]["manifest"].encode()).hexdigest()
            text = json.dumps(header).encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return data
        return struct.pack("<Q", len(text)) + text + data[8 + size :]

    words = [b"manifest", b"parts", b"tokens", b"U32", b"U8", b"F64", b'\\"vocab\\"', b"300", b"data_offsets"]
    return Target("an export", [seed], unpack, (ValueError,), words, sealed, tree=SAFETENSORS)


def lexical_segment(folder: Path) -> Target:
    """Opened, searched and read."""
    from megacontext.errors import StoreError
    from megacontext.focus.lexical import format as lex
    from megacontext.focus.lexical.records import bounds, contexts, make_records
    from megacontext.focus.lexical.segment import Segment, write_segment

    folder.mkdir()
    text = np.array([0, 0, 0, *(i * 7 % 30 for i in range(64))], np.uint32)
    head = lex.Head(0, 64, 16, 7, bytes(20))
    path, asked = folder / head.name, bounds(contexts(text[:20]), 4)
    for _ in write_segment(path, head, iter([np.sort(make_records(contexts(text), np.arange(64)))])):
        pass

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        segment = Segment.open(path)
        segment.find(asked)
        segment.part(0, 64)

    def sealed(data: bytes) -> bytes:
        records = data[lex.ALIGN :]
        table = b"".join(crc(records[at : at + lex.ALIGN]) for at in range(0, len(records), lex.ALIGN)) or bytes(4)
        front = (table + data[64 + len(table) :])[: lex.ALIGN - 64]
        body = data[:32] + crc(front) + data[36:60]
        return body + crc(body) + front + records

    return Target("lexical/", [path.read_bytes()], parse, (StoreError,), [lex.MAGIC], sealed)
