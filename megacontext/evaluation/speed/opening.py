"""Makes the contenders of one run, by name, all of one model. Knows nothing of how they are timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from megacontext.config import DemoConfig
from megacontext.errors import MegaContextError
from megacontext.evaluation.caches import make_contender
from megacontext.evaluation.flags import note
from megacontext.evaluation.names import MEGACONTEXT
from megacontext.evaluation.speed.answering import Answering
from megacontext.evaluation.speed.contenders import Ours, Timed
from megacontext.evaluation.speed.names import ANSWER, SAME, SAME_ANSWER, THEIRS
from megacontext.evaluation.speed.same_slots import SameSlots
from megacontext.evaluation.speed.theirs import Theirs
from megacontext.models.base import LoadedModel


class Opening:
    """Makes the contenders of one run. stack: closes what they hold."""

    def __init__(self, loaded: LoadedModel, config: DemoConfig, sample: Sequence[int], stack: ExitStack) -> None:
        self.loaded, self.config, self.sample, self.stack = loaded, config, sample, stack

    def all(self, names: Sequence[str]) -> Iterator[Timed]:
        """MegaContext is followed by the plain cache of its slots, then by both in an answer.

        Who cannot take part is told of and left out.
        """
        for name in names:
            try:
                one = self._one(name)
            except MegaContextError as error:
                note(f"{name}  left out: {error}")
                continue
            yield one
            if name == MEGACONTEXT and isinstance(one, Ours):
                yield self._beside(SAME, one)
                answering = Answering(ANSWER, self.loaded, one)
                yield answering
                yield self._beside(SAME_ANSWER, answering)

    def _beside(self, name: str, one: Ours) -> SameSlots:
        return SameSlots(name, self.loaded, one, self.sample[: self.config.memory.budget])

    def _one(self, name: str) -> Timed:
        if name == THEIRS:
            return Theirs.of(self.loaded, self.sample)
        folder = Path(self.stack.enter_context(TemporaryDirectory(prefix="megacontext-")))
        spec, config = self.loaded.model.spec, self.config
        contender = make_contender(name, spec, config.memory, pages=config.pages, folder=folder, text=self.loaded.text)
        self.stack.callback(contender.close)
        return Ours(name, self.loaded, contender)
