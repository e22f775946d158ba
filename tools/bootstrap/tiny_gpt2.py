"""Step: the model of the legacy demo. sshleifer/tiny-gpt2 where a hub can be reached, else a made-up one of its shape.

Which of the two is there is never a secret: it is said aloud, and the made-up one's config.json says so as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tools.bootstrap import hub, seeded_gpt2
from tools.bootstrap.fetch import Unreachable
from tools.bootstrap.hub_folder import HubFolder
from tools.bootstrap.step import Step, StepFailed, megabytes

MODEL = "sshleifer/tiny-gpt2"
SEEDED = "tiny-gpt2-seeded"
PATIENCE_S = 4.0


class TinyGpt2(Step):
    """offline: do not even ask the hub."""

    name = "tiny-gpt2"

    def __init__(self, root: Path, offline: bool = False) -> None:
        self.real = HubFolder(root, MODEL)
        self.seeded = root / "artifacts" / "models" / SEEDED
        self.offline = offline

    def ready(self) -> bool:
        return self.real.ready() or seeded_gpt2.is_whole(self.seeded)

    def plan(self) -> list[str]:
        size = megabytes(sum(file.size for file in seeded_gpt2.FILES))
        weights = next(file for file in seeded_gpt2.FILES if file.name == "model.safetensors")
        ask = [] if self.offline else [f"fetch {MODEL} (about 4 MB) if the hub answers within {PATIENCE_S:g} s"]
        return [*ask, f"{'else ' if ask else ''}write artifacts/models/{SEEDED} ({size}, {weights.digest})"]

    def run(self) -> None:
        try:
            if self.offline:
                raise Unreachable("--offline")
            hub.within(PATIENCE_S, lambda: self.real.listing(PATIENCE_S))
            self.real.run()
        except StepFailed as error:
            try:
                seeded_gpt2.write(self.seeded)
            except OSError as failure:
                raise StepFailed(f"could not write {self.seeded}: {failure}") from failure
            print(f"WARNING: {MODEL} is not here: {error}\n{_made_up()}", file=sys.stderr, flush=True)

    def remark(self) -> str | None:
        return None if self.real.ready() else f"WARNING: {MODEL} is not here.\n{_made_up()}"


def _made_up() -> str:
    return (
        f"WARNING: artifacts/models/{SEEDED} stands in for it: a made-up model of the same shape with random weights "
        f"(seed {seeded_gpt2.SEED}) and a tokenizer of bytes. Its text means nothing. "
        f"With a network, `python tools/bootstrap_env.py --hub {MODEL}` brings the real one."
    )
