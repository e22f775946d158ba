"""Carries out the steps of an episode on one memory, and measures how it fares. Knows nothing of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from megacontext.evaluation.episodes.outcome import Outcome
from megacontext.evaluation.episodes.reference import Reference, divergence
from megacontext.evaluation.episodes.steps import Ask, Continue, Range, Read, Step
from nanochat.engine import prefill
from nanochat.hook import BaseModel, KVCache

READ_TOKENS = 512  # of one pass at most: a plain cache would take all at once, with a mask of rows x slots
LOOK_AHEAD = 64  # tokens of a passage's first copy that an oracle is told of, and of the text to come


# Tells an oracle where to look: the right ranges, [] if nobody knows, and the tokens that come next, those that are
# scored among them: a prompt and its right answer, or the text to come.
Hint = Callable[[Sequence[Range], Sequence[int]], None]


def run_episode(
    model: BaseModel,
    cache: KVCache,
    steps: Sequence[Step],
    *,
    stride: int = 1,
    hint: Hint | None = None,
    reference: Reference | None = None,
) -> Outcome:
    """Run the steps on a fresh cache. stride: tokens a pass of `Continue`. hint: called before every scored pass.

    reference: full attention's predictions; without them no KL is measured.
    """
    run = _Episode(model, cache, stride, hint or (lambda ranges, ahead: None))
    with torch.inference_mode():
        if reference is not None and any(isinstance(step, Continue) and step.kl for step in steps):
            run.full = reference.rows(steps)
        for step in steps:
            run.take(step)
    run.outcome.history = cache.length
    return run.outcome


def read(model: BaseModel, cache: KVCache, tokens: list[int], *, report: Callable[[], None] | None = None) -> Tensor:
    """Take `tokens` in, at most READ_TOKENS a pass; logits (1, V) of the last row. report: called now and then."""
    portion = READ_TOKENS - READ_TOKENS % cache.room(READ_TOKENS)
    logits = torch.empty(0)
    for start in range(0, len(tokens), portion):
        logits = prefill(model, cache, tokens[start : start + portion], answer=False)
        if report is not None:
            report()
    return logits


class _Episode:
    """One memory on its way through the steps. logits: (1, V) of the last row; full: rows of the reference to come."""

    def __init__(self, model: BaseModel, cache: KVCache, stride: int, tell: Hint) -> None:
        self.model, self.cache, self.stride, self.tell = model, cache, stride, tell
        self.outcome = Outcome()
        self.logits: Tensor | None = None
        self.full: Tensor | None = None

    def take(self, step: Step) -> None:
        if isinstance(step, Read):
            self.tell([], [])
            self.logits = read(self.model, self.cache, step.tokens)
        elif isinstance(step, Ask):
            self._ask(step)
        else:
            self._continue(step)

    def _ask(self, step: Ask) -> None:
        self.tell(step.sources, [*step.prompt, *step.candidates[step.answer]])
        cache = self.cache if step.stay else self.cache.fork()
        first = prefill(self.model, cache, step.prompt, answer=True, words=step.words)
        self.outcome.see(cache)
        losses = self._losses(cache, first, step.candidates)
        means = [sum(loss) / len(loss) for loss in losses]
        choice = min(range(len(means)), key=means.__getitem__)
        self.outcome.add_answer(choice == step.answer, losses[step.answer], step.groups)
        if step.stay:
            self.logits = prefill(self.model, cache, [*step.candidates[choice], *step.after], answer=False)
        else:
            self.outcome.asking_flops += getattr(cache, "selection_flops", 0) - getattr(
                self.cache, "selection_flops", 0
            )

    def _losses(self, cache: KVCache, first: Tensor, candidates: list[list[int]]) -> list[list[float]]:
        """Nats of each candidate's tokens after the row whose logits are `first`.

        The longest goes first: a memory that must make room for it has done so before any other is scored, so that all
        are judged by one view.
        """
        losses: list[list[float]] = [[] for _ in candidates]
        for i in sorted(range(len(candidates)), key=lambda i: len(candidates[i]), reverse=True):
            losses[i] = self._loss(cache, first, candidates[i])
        return losses

    def _loss(self, cache: KVCache, first: Tensor, tokens: list[int]) -> list[float]:
        """Nats of each token; the cache's contents are left as they were."""
        if len(tokens) == 1:
            return _nats(first, tokens)
        mark = cache.mark()
        logits = torch.cat([first, _forward(self.model, cache, tokens[:-1])])
        self.outcome.see(cache)
        cache.rollback(mark)
        return _nats(logits, tokens)

    def _continue(self, step: Continue) -> None:
        if self.logits is None:
            raise ValueError("an episode cannot begin with Continue: its first token has no row before it")
        nats: list[float] = []
        while len(nats) < len(step.tokens):
            done = len(nats)
            self.tell(_ahead(step.source, done), step.tokens[done : done + LOOK_AHEAD])
            rows = min(self.cache.room(self.stride), len(step.tokens) - done)
            chunk = step.tokens[done : done + rows]
            out = _forward(self.model, self.cache, chunk)
            predicted = torch.cat([self.logits, out[:-1]])
            nats += _nats(predicted, chunk)
            self._compare(step, predicted)
            self.outcome.see(self.cache)
            self.cache.maintain(self.model)
            self.logits = out[-1:]
        self.outcome.add_text(nats, step.groups)

    def _compare(self, step: Continue, predicted: Tensor) -> None:
        """The distance of these rows (T, V) to full attention's, if the step asks for it."""
        if step.kl and self.full is not None:
            self.outcome.kl += divergence(self.full[: len(predicted)], predicted)
            self.full = self.full[len(predicted) :]


def _ahead(source: Range | None, done: int) -> list[Range]:
    """What of a passage's first copy comes next, when `done` tokens of the second have been scored."""
    if source is None:
        return []
    return [(source[0] + done, min(source[0] + done + LOOK_AHEAD, source[1]))]


def _forward(model: BaseModel, cache: KVCache, tokens: list[int]) -> Tensor:
    """One pass; logits (T, V)."""
    ids = torch.tensor([tokens], device=model.spec.device)
    return model.logits(model.forward(model.embed(ids), cache))[0]


def _nats(logits: Tensor, tokens: list[int]) -> list[float]:
    targets = torch.tensor(tokens, device=logits.device)
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none").tolist()
