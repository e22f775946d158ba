"""Builds what the decode demo needs: the model that its file names, and the memory. The heavy imports begin here.

Whatever is not as the file says is told: a line on stderr, and a warning in the log.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.cache import build_cache
from megacontext.config import ModelConfig
from megacontext.delta_nll import DeltaNll
from megacontext.errors import BudgetError
from megacontext.models import load_model
from megacontext.telemetry.events import MemoryOpened, ModelLoaded, Warning_
from megacontext.telemetry.sinks import Telling
from nanochat.hardware import has_device
from nanochat.streams import note
from tools.legacy.config import PLAIN
from tools.legacy.models import BOOTSTRAP

if TYPE_CHECKING:
    from megacontext.models.base import LoadedModel
    from megacontext.telemetry.sinks import Sink
    from nanochat.hook import KVCache
    from tools.legacy.config import Decode, LegacyConfig


def load(decode: Decode, path: Path, sink: Sink) -> LoadedModel:
    """The model at `path`. Raises ConfigError, or what its files are refused with."""
    _tell_unused(decode, sink)
    started = time.monotonic()
    place = {"path": str(path), "dtype": decode.torch_dtype, "device": _device(decode, sink)}
    loaded = load_model(ModelConfig.model_validate(place))
    seconds = time.monotonic() - started
    sink.emit(
        ModelLoaded(
            name=loaded.name,
            fingerprint=loaded.model.spec.fingerprint,
            load_ms=round(seconds * 1000, 1),
            summary={"asked_for": decode.model_name, "path": str(path), **loaded.summary},
        )
    )
    note(f"{loaded.name} is ready after {seconds:.1f} s")
    if "seeded" in loaded.summary:
        _tell_seeded(decode.model_name, loaded, sink)
    return loaded


def open_memory(loaded: LoadedModel, config: LegacyConfig, tokens: int, sink: Sink) -> KVCache:
    """An empty memory for a run of `tokens`. Raises BudgetError or ConfigError."""
    spec, memory, telemetry = loaded.model.spec, config.memory, config.telemetry
    plain = memory.cache in PLAIN
    if plain and tokens > spec.max_position:
        raise BudgetError(
            f"memory.cache {memory.cache} gives each of the {tokens:,} tokens a position, but the model was trained on "
            f"{spec.max_position:,}; shorten the prompt, or set memory.cache to megacontext, which holds any length"
        )
    probe = DeltaNll.of(telemetry)
    cache = build_cache(spec, memory, sink=Telling(sink, note), probe=probe, text=loaded.text)
    sink.emit(MemoryOpened(cache=memory.cache, working_budget=None if plain else memory.budget))
    return cache


def warn(sink: Sink, message: str, hint: str) -> None:
    """Into the log, and onto stderr."""
    sink.emit(Warning_(message=message, hint=hint))
    note(f"WARNING: {message}: {hint}")


def _device(decode: Decode, sink: Sink) -> str:
    device = decode.device.partition(":")[0]
    if device == "auto" or has_device(device):
        return device
    warn(sink, f"base_model.device is {decode.device}, and this machine has none", "the model runs on the CPU")
    return "cpu"


def _tell_unused(decode: Decode, sink: Sink) -> None:
    if decode.trust_remote_code:
        warn(sink, "trust_remote_code: true does nothing", "code that lies beside a model is never run")
    if decode.load_kwargs:
        names = ", ".join(decode.load_kwargs)
        warn(sink, f"load_kwargs does nothing ({names})", "torch_dtype and device say how a model is loaded")


def _tell_seeded(name: str, loaded: LoadedModel, sink: Sink) -> None:
    seed, tokenizer = loaded.summary["seeded"], loaded.summary.get("tokenizer")
    warn(
        sink,
        f"{name} is a made-up model here: random weights (seed {seed}), tokenizer {tokenizer}; its text means nothing",
        f"where a hub can be reached, `{BOOTSTRAP} --hub sshleifer/tiny-gpt2` brings the real one",
    )
