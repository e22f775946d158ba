"""A comparison from its file and flags to its rows. Says how far it is; how rows are shown is for others to decide."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from megacontext.config import DemoConfig
from megacontext.config_loader import LoadedConfig, load_config
from megacontext.errors import ConfigError, MegaContextError
from megacontext.evaluation.comparison.code import code_hash
from megacontext.evaluation.comparison.ledger import Ledger
from megacontext.evaluation.comparison.matrix import Cell, CompareConfig, Plan, Work, episode_of, in_order
from megacontext.evaluation.comparison.pool import Done, in_turn, side_by_side
from megacontext.evaluation.comparison.progress import Progress
from megacontext.evaluation.comparison.rows import Row, RowFile
from megacontext.evaluation.comparison.selection import explain_gaps, selected
from megacontext.evaluation.comparison.tuning import keep_best
from megacontext.evaluation.corpus import Corpus, load_corpus
from megacontext.evaluation.flags import note
from megacontext.evaluation.settings import load_settings

if TYPE_CHECKING:
    from megacontext.evaluation.comparison.shop import Shop

FAILURE = 1


@dataclass
class Comparison:
    """What is compared, with what, and the books that are kept of it (None until the first episode can run)."""

    loaded: LoadedConfig[CompareConfig]
    demo: DemoConfig
    plan: Plan
    corpus: Corpus
    file: RowFile
    ledger: Ledger | None = None
    exit_code: int = 0  # the first trouble's
    code_hash: str = field(default_factory=code_hash)

    @classmethod
    def open(cls, flags: argparse.Namespace, path: str) -> Comparison:
        """Raises ConfigError or MissingAsset before anything heavy is loaded."""
        loaded: LoadedConfig[CompareConfig] = load_config(path, CompareConfig)
        if flags.resume and flags.out is None:
            raise ConfigError("--resume: say with --out FILE which rows to go on with")
        demo = load_settings(loaded.config.demo, flags.set).config
        plan = selected(loaded, demo, flags)
        explain_gaps(plan)
        corpus = load_corpus(Path(loaded.config.corpus), flags.text)
        return cls(loaded, demo, plan, corpus, RowFile(flags.out, resume=flags.resume))

    def rows(self) -> list[Row]:
        """Those there are so far, in the order of a table."""
        return self.ledger.rows() if self.ledger else []

    def run(self, jobs: int = 1) -> int:
        """Run what is missing; the exit code."""
        from megacontext.evaluation.comparison.shop import Shop

        with _scratch(self.file.path) as scratch:
            shop = Shop(self._demo(jobs), self.corpus, scratch)
            cells = self._possible(shop)
            self.ledger = Ledger(cells, self.file, {"config": self.loaded.run})
            works = in_order(list(cells))
            missing = [work for work in works if not self.ledger.has(work)]
            progress = self._progress(works, missing, jobs)
            if jobs > 1:
                shop.forget()
            with closing(in_turn(shop, missing) if jobs == 1 else side_by_side(shop, missing, jobs)) as found:
                for done in found:
                    self._take(done, progress, jobs)
                    _let_go(scratch, done.work, progress)
        return self.exit_code

    def keep_best(self) -> None:
        """After trials: write the best settings of each method to where comparisons look for them."""
        note(keep_best(self.rows(), Path(self.loaded.config.tuned)))

    def _demo(self, jobs: int) -> DemoConfig:
        """Of several processes each has one thread, whatever the configuration says."""
        threads = self.demo.model.threads if jobs == 1 else 1
        return self.demo.model_copy(update={"model": self.demo.model.model_copy(update={"threads": threads})})

    def _possible(self, shop: Shop) -> dict[Cell, Row]:
        """The cells with their identities; those that cannot be are told and left out."""
        found: dict[Cell, Row] = {}
        cells = self.plan.cells()
        for cell, (identity, refusal) in zip(cells, shop.check(cells), strict=True):
            if refusal is None:
                found[cell] = identity
            else:
                self._trouble(cell, refusal)
        return found

    def _progress(self, works: list[Work], missing: list[Work], jobs: int) -> Progress:
        assert self.ledger is not None
        progress = Progress(missing, jobs)
        kept = {work: self.ledger.episodes[work.cell][work.seed] for work in works if self.ledger.has(work)}
        if kept:
            old = sum(episode["code"] != self.code_hash for episode in kept.values())
            note(f"{len(kept)} of {len(works)} episodes kept{f', {old} of them measured with other code' * bool(old)}")
        for work, episode in kept.items():
            progress.measured(work, episode["seconds"])
        return progress

    def _take(self, done: Done[Work, dict[str, Any]], progress: Progress, jobs: int) -> None:
        assert self.ledger is not None
        if done.found is None:
            assert done.error is not None
            self._trouble(done.work.cell, done.error)
            progress.ended(done.work)
            return
        self.ledger.add(done.work, {**done.found, "jobs": jobs, "code": self.code_hash})
        progress.measured(done.work, done.found["seconds"])
        progress.ended(done.work)
        note(f"{progress.told()}  {done.work.cell.label}  {told(done.found)}")

    def _trouble(self, cell: Cell, error: Exception) -> None:
        """One memory's failure is told, counted in the exit code, and leaves the others alone."""
        kind = "" if isinstance(error, MegaContextError) else f"{type(error).__name__}: "
        note(f"error: {cell.label}: {kind}{error}")
        self.exit_code = self.exit_code or getattr(error, "exit_code", FAILURE)


@contextmanager
def _scratch(out: Path | None) -> Iterator[Path]:
    """A folder for what the memories of one episode share; beside `out`, where the next run clears away."""
    if out is None:
        with TemporaryDirectory(prefix="megacontext-") as folder:
            yield Path(folder)
        return
    folder_beside = out.with_name(f"{out.name}.work")
    folder_beside.mkdir(parents=True, exist_ok=True)
    try:
        yield folder_beside
    finally:
        shutil.rmtree(folder_beside, ignore_errors=True)


def _let_go(scratch: Path, work: Work, progress: Progress) -> None:
    """Full attention's predictions are large: they go when the last memory of the episode has been measured."""
    from megacontext.evaluation.comparison.runner import episode_folder

    if not any(episode_of(other) == episode_of(work) for other in progress.todo):
        shutil.rmtree(episode_folder(scratch, work), ignore_errors=True)


def told(episode: Row) -> str:
    """'seed 0  accuracy 0.90  nll 0.340  12 s'"""
    right = "" if episode["accuracy"] is None else f"accuracy {episode['accuracy']:.2f}  "
    return f"seed {episode['seed']}  {right}nll {episode['nll']:.3f}  {episode['seconds']:.0f} s"
