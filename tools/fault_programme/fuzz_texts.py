"""The parsers of conversations, settings, event logs and what a model says, to be fuzzed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.fault_programme.fuzz_target import JSON, Target, Tree


def text_targets(folder: Path) -> Iterator[Target]:
    """All of them. folder: for those that read files."""
    yield messages()
    yield yaml_file()
    yield calculator()
    yield event_line()
    yield event_log(folder / "run.log")


def messages() -> Target:
    from megacontext.errors import ConfigError
    from megacontext.sessions.messages import check_order, parse_messages

    seeds = [
        b'{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "hello"}]}',
        b'[{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": "b"}]',
    ]

    def parse(data: bytes) -> None:
        try:
            value = json.loads(data)
        except RecursionError as error:
            raise ValueError from error
        check_order(parse_messages(value))

    words = [b'"role"', b'"content"', b'"messages"', b'"user"', b'"assistant"', b'"text"', b'"type"']
    return Target("messages", seeds, parse, (ConfigError, ValueError), words, tree=JSON)


def yaml_file() -> Target:
    from megacontext.errors import ConfigError
    from megacontext.yaml_loader import parse_yaml

    seeds = [
        b"model:\n  path: a.gguf\nmemory:\n  budget: 640 # slots\n  gist_slots: [1, 0x1f, .inf]\n",
        b"a: &x {b: 'c', d: \"\\u0041\"}\ne: *x\nf: |\n  text\n  more\n",
        b'{"a": [1.5, true, null, "\\ud83d\\ude00"]}',
    ]

    def parse(data: bytes) -> None:
        parse_yaml(data, "fuzz.yaml" if len(data) % 2 else "fuzz.json")

    words = [b"&x ", b"*x", b"<<: ", b"!!python/object ", b"---\n", b": ", b"- ", b"\n  ", b"? ", b"%YAML 1.1\n", b"\t"]
    return Target("YAML", seeds, parse, (ConfigError,), words)


def event_line() -> Target:
    from megacontext.telemetry.events import RunEnd, RunStart, Tick, Turn
    from megacontext.telemetry.schema import InvalidEvent, validate_line
    from megacontext.telemetry.sinks import encode, payload, utc_now

    tick = Tick(
        tick=1,
        reason="text",
        history_tokens=9,
        working_budget=64,
        active_slots=9,
        utilization=0.1,
        lod_counts={0: 1},
        latency_ms={"total": 1.5},
    )
    events = [
        RunStart(program="chat", config={"a": [1, None]}, config_path=None, versions={}, fingerprints={}),
        tick,
        Turn(turn=1, prompt_tokens=2, generated_tokens=3, history_tokens=5, stop="stop", name=None, resident_bytes=1),
        RunEnd(exit_code=0, seconds=1.5, totals={"turn": 1}),
    ]
    head = {"v": 1, "seq": 0, "time": utc_now(), "run": "toy"}
    seeds = [encode({**head, "type": event.type, **payload(event)}) for event in events]
    words = [b'"type"', b'"tick"', b'"turn"', b'"seq"', b'"v"', b"1.5", b"true", b'"latency_ms"', b'"lod_counts"']
    return Target("event line", seeds, validate_line, (InvalidEvent,), words, tree=JSON)


def event_log(path: Path) -> Target:
    """A whole log, with the views that its edits lead to."""
    from megacontext.cache import ContextCache
    from megacontext.errors import MegaContextError
    from megacontext.replay import replay
    from megacontext.telemetry.events import MemoryOpened, RunStart
    from megacontext.telemetry.sinks import JsonlSink
    from megacontext.telemetry.ticks import TickSummary
    from megacontext.testing.toy import cached_logits, toy_tokens
    from tools.event_log import read_log
    from tools.fault_programme.dict_model import CONFIG, VOCAB, small_model

    model, log = small_model(), JsonlSink(path.parent, "seed")
    sink = TickSummary(log)
    memory = {"block": CONFIG.block, "budget": CONFIG.budget, "gist_slots": list(CONFIG.gist_slots)}
    sink.emit(RunStart(program="chat", config={"memory": memory}))
    sink.emit(MemoryOpened(cache="megacontext", working_budget=CONFIG.budget))
    cached_logits(model, ContextCache(model.spec, CONFIG, sink=sink), toy_tokens(200, vocab=VOCAB), [6] * 30)
    sink.flush()
    log.close()
    seed = next(path.parent.glob("seed*.log")).read_bytes()

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        for _ in replay(read_log(path).events):
            pass

    words = [b'"expand"', b'"collapse"', b'"tick"', b'"start"', b'"end"', b'"history_tokens"', b'"lod_counts"', b"200"]
    return Target("event log", [seed], parse, (MegaContextError,), words, share=0.5, tree=LINES)


def _lines(_: bytes, value: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in (value if isinstance(value, list) else [value]))


LINES = Tree(lambda data: [json.loads(line) for line in data.splitlines()], _lines)


def calculator() -> Target:
    """What a model asks the calculator; it answers None to what it cannot do."""
    from nanochat.calculator import use_calculator

    seeds = [b"2*(3+4)", b"-1.5e3//7", b"'strawberry'.count('r')", b"\"A b\".lower().upper().count('b')"]
    words = [b"**", b"9" * 40, b"(", b")" * 9, b".count(", b".lower()", b"__class__", b"//0", b"1" * 400, b"-" * 40]
    return Target("calculator", seeds, lambda data: use_calculator(data.decode("utf-8", "replace")), (), words)
