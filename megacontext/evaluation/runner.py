"""Runs contenders on tasks. The heavy imports begin here; what a row says is `rows.py`'s business."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from megacontext.config import DemoConfig, MemoryConfig, ModelConfig, PagesConfig
from megacontext.evaluation.caches import Contender, make_contender, settings
from megacontext.evaluation.corpus import Corpus
from megacontext.evaluation.episode import run_episode
from megacontext.evaluation.rows import Row, summarise
from megacontext.evaluation.tasks.base import Library, Task
from megacontext.models import load_model
from megacontext.models.base import LoadedModel

Report = Callable[[str], None]


def open_model(config: ModelConfig) -> LoadedModel:
    """The model of a configuration, with as many threads as it says."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return load_model(config)


def about(loaded: LoadedModel, corpus: Corpus) -> Row:
    """What every figure depends on: model, number format, where it runs, and the texts' hashes."""
    spec = loaded.model.spec
    return {
        "model": loaded.name,
        "dtype": str(spec.dtype).removeprefix("torch."),
        "device": spec.device.type,
        "threads": torch.get_num_threads(),
        "texts": corpus.files,
    }


@dataclass(frozen=True)
class Runner:
    """One model and one corpus; every row is of them."""

    loaded: LoadedModel
    corpus: Corpus
    library: Library
    memory: MemoryConfig
    pages: PagesConfig

    @classmethod
    def open(cls, demo: DemoConfig, corpus: Corpus) -> Runner:
        loaded = open_model(demo.model)
        return cls(loaded, corpus, Library(loaded.text, corpus.documents), demo.memory, demo.pages)

    def identity(self, cache: str, task: Task, seeds: int) -> Row:
        """What the row will be of: names, sizes, hashes, and `run`, one hash of everything that it depends on."""
        spec, config = self.loaded.model.spec, settings(cache, self.memory)
        row = {"cache": cache, "task": task.name, **about(self.loaded, self.corpus)}
        whole = {
            **{name: value for name, value in row.items() if name != "threads"},
            "task": asdict(task),
            "seeds": seeds,
            "fingerprint": spec.fingerprint,
            "memory": config.model_dump(mode="json") if config else None,
        }
        if config and self._on_disk:
            row["pages"] = whole["pages"] = self.pages.dtype
        return {**row, "run": hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]}

    def row(self, cache: str, task: Task, seeds: int, *, full: Mapping[str, Any] | None, report: Report) -> Row:
        """Episodes 0 .. seeds - 1 of `task` on memory `cache`. full: the plain cache's row, for delta_nll."""
        started = time.perf_counter()
        episodes = []
        for seed in range(seeds):
            episodes.append(self._episode(cache, task, seed))
            report(_told(episodes[-1]))
        figures = summarise(episodes, full)
        return {**self.identity(cache, task, seeds), **figures, "seconds": round(time.perf_counter() - started, 1)}

    def _episode(self, cache: str, task: Task, seed: int) -> dict[str, Any]:
        with TemporaryDirectory(prefix="megacontext-") as folder:
            place = Path(folder) if self._on_disk else None
            contender = make_contender(cache, self.loaded.model.spec, self.memory, pages=self.pages, folder=place)
            try:
                return self._run(cache, contender, task, seed)
            finally:
                contender.close()

    @property
    def _on_disk(self) -> bool:
        """Pages in the model's own format are the same wherever they are; others must go through their file."""
        return self.pages.dtype != "model"

    def _run(self, cache: str, contender: Contender, task: Task, seed: int) -> dict[str, Any]:
        steps = task.steps(self.library, seed)
        started = time.perf_counter()
        out = run_episode(self.loaded.model, contender.cache, steps, stride=contender.stride, hint=contender.hint)
        if contender.budget is not None and out.slots > contender.budget:
            raise AssertionError(f"{cache} showed {out.slots} slots, its budget is {contender.budget}")
        return {
            "seed": seed,
            "accuracy": None if out.accuracy is None else round(out.accuracy, 5),
            "nll": None if out.mean_nll is None else round(out.mean_nll, 5),
            "history_tokens": out.history,
            "slots": out.slots,
            "tokens": len(out.nll),
            "seconds": round(time.perf_counter() - started, 1),
        }


def _told(episode: Mapping[str, Any]) -> str:
    right = "" if episode["accuracy"] is None else f"accuracy {episode['accuracy']:.2f}  "
    return f"seed {episode['seed']}  {right}nll {episode['nll']:.3f}  {episode['seconds']:.0f} s"
