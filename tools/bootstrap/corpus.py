"""Step: the sample corpus, assembled from what ships with this Python. Needs no network."""

from __future__ import annotations

from pathlib import Path

from tools import sample_corpus
from tools.bootstrap.step import Step, StepFailed


class Corpus(Step):
    name = "corpus"

    def __init__(self, root: Path) -> None:
        self.path = root / "artifacts" / "corpus" / "sample.txt"

    def ready(self) -> bool:
        return sample_corpus.is_built(self.path)

    def plan(self) -> list[str]:
        return [
            "assemble artifacts/corpus/sample.txt and sample.json from this Python's library (2 to 3 MB, no download)"
        ]

    def run(self) -> None:
        try:
            sample_corpus.build(self.path)
        except (OSError, RuntimeError) as error:
            raise StepFailed(f"could not build {self.path}: {error}") from error
