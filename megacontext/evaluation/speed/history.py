"""How fast one memory goes on after a long history. The command line is `tools/bench_history.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megacontext.config import DemoConfig
from megacontext.evaluation.caches import FULL, Contender, make_contender
from megacontext.evaluation.comparison.rows import Row
from megacontext.evaluation.corpus import Corpus
from megacontext.evaluation.episodes.run import read
from megacontext.evaluation.tasks.base import Library
from megacontext.models.base import LoadedModel
from megacontext.telemetry.timing import percentile
from nanochat.engine import decode
from nanochat.hook import KVCache, Rotation

FIGURES = (
    *("decode_ms_p50", "decode_ms_p95", "prefill_tokens_per_s", "resident_bytes", "disk_bytes"),
    *("slots", "max_position"),
    *("tick_ms_p50", "tick_ms_p95", "tick_share"),
)


class WatchedRotation:
    """A rotation that remembers the largest position it was asked for. Implements `nanochat.hook.Rotation`."""

    def __init__(self, inner: Rotation) -> None:
        self.inner, self.largest = inner, -1

    def reserve(self, length: int) -> None:
        self.inner.reserve(length)

    def at(self, positions: Tensor) -> Any:
        if positions.numel():  # a memory that is opened has no rows yet
            self.largest = max(self.largest, int(positions.max()))
        return self.inner.at(positions)

    def rotate(self, x: Tensor, angles: Any) -> Tensor:
        return self.inner.rotate(x, angles)


@dataclass
class Bench:
    """One memory that grows from length to length. text: endless tokens. decode: tokens to decode at each length."""

    loaded: LoadedModel
    name: str
    contender: Contender
    rotation: WatchedRotation
    text: Iterator[int]
    decode: int
    report: Callable[[str], None] = lambda text: None

    @classmethod
    def open(
        cls, name: str, loaded: LoadedModel, corpus: Corpus, config: DemoConfig, decode: int, folder: Path
    ) -> Bench:
        """folder: an empty one, for what the memory keeps on disk."""
        spec = loaded.model.spec
        rotation = WatchedRotation(spec.rotation)
        watched = replace(spec, rotation=rotation)
        contender = make_contender(name, watched, config.memory, pages=config.pages, folder=folder, text=loaded.text)
        return cls(loaded, name, contender, rotation, Library(loaded.text, corpus.documents).stream(), decode)

    @property
    def cache(self) -> KVCache:
        """The memory."""
        return self.contender.cache

    def refusal(self, history: int) -> str | None:
        """Why a plain cache does not belong at this length, or None."""
        trained, wanted = self.loaded.model.spec.max_position, history + self.decode
        if self.name != FULL or wanted <= trained:
            return None
        return f"not run: {wanted} positions, the model was trained on {trained}"

    def row(self, history: int) -> Row:
        """Read on to `history` tokens, decode there on a copy, and say what it took."""
        new = list(islice(self.text, history - self.cache.length))
        started = time.perf_counter()
        logits = read(self.loaded.model, self.cache, new, report=self._progress())
        speed = len(new) / (time.perf_counter() - started)
        usage = self.cache.usage
        times, ticks = self._decode(logits)
        self._check()
        figures = {
            **_spread("decode_ms", times),
            "prefill_tokens_per_s": round(speed, 1),
            "resident_bytes": usage.nbytes,
            "disk_bytes": None if self.contender.files is None else self.contender.files.pages.disk,
            "slots": usage.resident_slots,
            "max_position": self.rotation.largest,
            **_spread("tick_ms", ticks),
            "tick_share": round(sum(ticks) / sum(times), 4) if ticks else None,
        }
        return {"history_tokens": history, "cache": self.name, **figures}

    def _progress(self, every: float = 15.0) -> Callable[[], None]:
        """Says every `every` seconds how far it has come."""
        said = time.monotonic()

        def tell() -> None:
            nonlocal said
            if time.monotonic() - said > every:
                said = time.monotonic()
                self.report(f"{self.name}  {self.cache.length:,} tokens read")

        return tell

    def _decode(self, logits: Tensor) -> tuple[list[float], list[float]]:
        """Milliseconds of each token, and of the memory's ticks among them, if it has any."""
        twin = self.cache.fork()
        tokens = decode(self.loaded.model, twin, logits, lambda last: int(last.argmax()))
        next(tokens)  # sampled from what was read: nothing has been computed for it
        times: list[float] = []
        ticks: list[float] = []
        for _ in range(self.decode):
            before, started = getattr(twin, "tick", 0), time.perf_counter()
            next(tokens)
            self._wait()
            times.append((time.perf_counter() - started) * 1000)
            report = getattr(twin, "last_tick", None)
            if report is not None and getattr(twin, "tick", 0) != before:
                ticks.append(sum(report.latency_ms[part] for part in ("score", "plan", "page")))
        return times, ticks

    def _wait(self) -> None:
        if self.loaded.model.spec.device.type == "cuda":
            torch.cuda.synchronize()

    def _check(self) -> None:
        trained = self.loaded.model.spec.max_position
        if self.name != FULL and self.rotation.largest >= trained:
            raise AssertionError(f"{self.name} used position {self.rotation.largest} of a model trained on {trained}")


def _spread(name: str, times: Sequence[float]) -> Row:
    shares = {"p50": 0.5, "p95": 0.95}
    return {f"{name}_{key}": round(percentile(times, p), 3) if times else None for key, p in shares.items()}
