"""Runs the episodes of any cell with one model and one corpus. The heavy imports begin here; what a row says of several
episodes is for `summary.py` to decide.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from megacontext.config import DemoConfig, MemoryConfig, PagesConfig
from megacontext.errors import BudgetError, ConfigError
from megacontext.evaluation.caches import LOOKING_AHEAD, Contender, depends_on, make_contender, settings, split_name
from megacontext.evaluation.comparison.matrix import Cell, Work
from megacontext.evaluation.comparison.rows import Row
from megacontext.evaluation.corpus import Corpus
from megacontext.evaluation.episodes.outcome import Outcome, figures
from megacontext.evaluation.episodes.reference import Reference
from megacontext.evaluation.episodes.run import run_episode
from megacontext.evaluation.episodes.steps import Ask, Continue
from megacontext.evaluation.model import about, open_model
from megacontext.evaluation.tasks.base import Library, Task
from megacontext.models.base import LoadedModel

FORMAT = 2  # of an episode's figures: rows of another one are not gone on with


def episode_folder(scratch: Path, work: Work) -> Path:
    """Where full attention's predictions for an episode are kept while its memories are measured."""
    whole = json.dumps([work.cell.model, asdict(work.cell.task), work.seed])
    return scratch / hashlib.sha256(whole.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Runner:
    """One model and one corpus. scratch: a folder for what the memories of one episode share."""

    loaded: LoadedModel
    corpus: Corpus
    library: Library
    memory: MemoryConfig
    pages: PagesConfig
    scratch: Path

    @classmethod
    def open(cls, demo: DemoConfig, corpus: Corpus, scratch: Path) -> Runner:
        loaded = open_model(demo.model)
        return cls(loaded, corpus, Library(loaded.text, corpus.documents), demo.memory, demo.pages, scratch)

    def identity(self, cell: Cell) -> Row:
        """What the row will be of: names, sizes, hashes, and `run`, one hash of everything that an episode of it
        depends on but its seed.
        """
        row, memory = self._named(cell), self._memory(cell)
        if self._on_disk and settings(cell.cache, memory) is not None:
            row["pages"] = self.pages.dtype
        whole = {
            **{name: value for name, value in row.items() if name != "threads"},
            "format": FORMAT,
            "task": asdict(cell.task),
            "fingerprint": self.loaded.model.spec.fingerprint,
            "memory": depends_on(cell.cache, memory, cell.tuned),
        }
        text = json.dumps(whole, sort_keys=True, default=str)
        return {**row, "run": hashlib.sha256(text.encode()).hexdigest()[:16]}

    def _named(self, cell: Cell) -> Row:
        private = cell.task.private
        return {
            "cache": cell.cache,
            "task": cell.task.name,
            "task_tokens": cell.task.tokens,
            "budget": cell.budget,
            "settings": {**cell.tuned, **split_name(cell.cache)[1]},
            "split": cell.split,
            "private": hashlib.sha256(private.encode()).hexdigest()[:8] if private else None,
            **about(self.loaded, self.corpus),
        }

    def refusal(self, cell: Cell) -> BudgetError | None:
        """Why this memory cannot be at all: too few slots. Raises ConfigError for what is wrong otherwise."""
        try:
            make_contender(cell.cache, self.loaded.model.spec, self._memory(cell), **self._made_with(cell)).close()
        except BudgetError as error:
            return error
        return None

    def too_long(self, cell: Cell) -> ConfigError | None:
        """Why this memory cannot have this task: it asks full attention, past the trained length."""
        if split_name(cell.cache)[0] not in LOOKING_AHEAD:
            return None
        from megacontext.evaluation.oracles.scorers import most_tokens
        from megacontext.evaluation.oracles.shadow import within

        try:
            within(self.loaded.model.spec, most_tokens(cell.task.steps(self.library, cell.seeds[0])))
        except ConfigError as error:
            return error
        return None

    def try_out(self, task: Task) -> None:
        """Raises ConfigError where the texts do not suffice, or KL is asked for past the trained length."""
        steps, trained = task.steps(self.library, 0), self.loaded.model.spec.max_position
        asked = any(isinstance(step, Continue) and step.kl for step in steps)
        length = sum(len(step.tokens) for step in steps if not isinstance(step, Ask))
        if asked and length > trained:
            raise ConfigError(
                f"{task.name}: KL to full attention over {length} tokens, and the model was trained on {trained}; give "
                "the task at most so many tokens"
            )

    def episode(self, work: Work) -> dict[str, Any]:
        """One episode on a fresh memory, as plain values."""
        cell = work.cell
        with TemporaryDirectory(prefix="megacontext-") as folder:
            made = {**self._made_with(cell), "pages": self.pages, "folder": Path(folder) if self._on_disk else None}
            contender = make_contender(cell.cache, self.loaded.model.spec, self._memory(cell), **made)
            try:
                return self._run(work, contender)
            finally:
                contender.close()

    def _memory(self, cell: Cell) -> MemoryConfig:
        return self.memory if cell.budget is None else self.memory.model_copy(update={"budget": cell.budget})

    def _made_with(self, cell: Cell) -> dict[str, Any]:
        return {"text": self.loaded.text, "model": self.loaded.model, "tuned": cell.tuned}

    @property
    def _on_disk(self) -> bool:
        """Pages in the model's own format are the same wherever they are; others must go through their file."""
        return self.pages.dtype != "model"

    def _run(self, work: Work, contender: Contender) -> dict[str, Any]:
        model, cache = self.loaded.model, contender.cache
        steps = work.cell.task.steps(self.library, work.seed)
        reference = Reference(model, episode_folder(self.scratch, work))
        started, spent = time.perf_counter(), time.process_time()
        out = run_episode(model, cache, steps, stride=contender.stride, hint=contender.hint, reference=reference)
        if contender.budget is not None and out.read_slots > contender.budget:
            raise AssertionError(f"{work.cell.cache} read {out.read_slots} slots, its budget is {contender.budget}")
        return {
            "seed": work.seed,
            **figures(out),
            "disk_bytes": None if contender.files is None else contender.files.pages.disk,
            "selection_flops": _selection_flops(contender, out),
            "seconds": round(time.perf_counter() - started, 1),
            "cpu_seconds": round(time.process_time() - spent, 1),
        }


def _selection_flops(contender: Contender, out: Outcome) -> int | None:
    """Of the whole episode; None if the memory does not count them. A plain cache has nothing to choose."""
    spent = 0 if contender.budget is None else getattr(contender.cache, "selection_flops", None)
    return None if spent is None else int(spent) + out.asking_flops
