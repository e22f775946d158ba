"""Carries out the steps of an episode on one memory, and measures how it fares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from megacontext.evaluation.steps import Ask, Continue, Range, Read, Step
from nanochat.engine import prefill
from nanochat.hook import BaseModel, KVCache

READ_TOKENS = 512  # of one pass at most: a plain cache would take all at once, with a mask of rows x slots
LOOK_AHEAD = 64  # tokens of a passage's first copy that an oracle is told of, from the next one on


@dataclass
class Outcome:
    """What an episode measured. asked, right: questions. nll: nats of every scored token."""

    asked: int = 0
    right: int = 0
    nll: list[float] = field(default_factory=list)
    history: int = 0
    slots: int = 0  # most slots in view when something was scored, the scored rows included

    @property
    def mean_nll(self) -> float | None:
        return sum(self.nll) / len(self.nll) if self.nll else None

    @property
    def accuracy(self) -> float | None:
        return self.right / self.asked if self.asked else None


Hint = Callable[[Sequence[Range]], None]  # tells an oracle where to look


def run_episode(
    model: BaseModel, cache: KVCache, steps: Sequence[Step], *, stride: int = 1, hint: Hint | None = None
) -> Outcome:
    """Run the steps on a fresh cache. stride: tokens a pass of `Continue`. hint: called before every scored pass."""
    outcome = Outcome()
    tell: Hint = hint or (lambda ranges: None)
    with torch.inference_mode():
        logits: Tensor | None = None
        for step in steps:
            if isinstance(step, Read):
                tell([])
                logits = read(model, cache, step.tokens)
            elif isinstance(step, Ask):
                tell(step.sources)
                asked = _ask(model, cache if step.stay else cache.fork(), step, outcome)
                logits = asked if step.stay else logits
            elif logits is None:
                raise ValueError("an episode cannot begin with Continue: its first token has no row before it")
            else:
                logits = _continue(model, cache, step, logits, outcome, stride, tell)
    outcome.history = cache.length
    return outcome


def read(model: BaseModel, cache: KVCache, tokens: list[int], *, report: Callable[[], None] | None = None) -> Tensor:
    """Take `tokens` in, at most READ_TOKENS a pass; logits (1, V) of the last row. report: called now and then."""
    portion = READ_TOKENS - READ_TOKENS % cache.room(READ_TOKENS)
    logits = torch.empty(0)
    for start in range(0, len(tokens), portion):
        logits = prefill(model, cache, tokens[start : start + portion], answer=False)
        if report is not None:
            report()
    return logits


def _ask(model: BaseModel, cache: KVCache, step: Ask, outcome: Outcome) -> Tensor:
    first = prefill(model, cache, step.prompt, answer=True, words=step.words)
    _see(cache, outcome)
    losses = _losses(model, cache, first, step.candidates, outcome)
    means = [sum(loss) / len(loss) for loss in losses]
    choice = min(range(len(means)), key=means.__getitem__)
    outcome.asked += 1
    outcome.right += choice == step.answer
    outcome.nll += losses[step.answer]
    if not step.stay:
        return first
    return prefill(model, cache, [*step.candidates[choice], *step.after], answer=False)


def _losses(
    model: BaseModel, cache: KVCache, first: Tensor, candidates: list[list[int]], outcome: Outcome
) -> list[list[float]]:
    """Nats of each candidate's tokens after the row whose logits are `first`.

    The longest goes first: a memory that must make room for it has done so before any other is scored, so that all
    are judged by one view.
    """
    losses: list[list[float]] = [[] for _ in candidates]
    for i in sorted(range(len(candidates)), key=lambda i: len(candidates[i]), reverse=True):
        losses[i] = _loss(model, cache, first, candidates[i], outcome)
    return losses


def _loss(model: BaseModel, cache: KVCache, first: Tensor, tokens: list[int], outcome: Outcome) -> list[float]:
    """Nats of each token; the cache's contents are left as they were."""
    if len(tokens) == 1:
        return _nats(first, tokens)
    mark = cache.mark()
    logits = torch.cat([first, _forward(model, cache, tokens[:-1])])
    _see(cache, outcome)
    cache.rollback(mark)
    return _nats(logits, tokens)


def _continue(
    model: BaseModel, cache: KVCache, step: Continue, logits: Tensor, outcome: Outcome, stride: int, tell: Hint
) -> Tensor:
    done = 0
    while done < len(step.tokens):
        if step.source:
            at = step.source[0] + done
            tell([(at, min(at + LOOK_AHEAD, step.source[1]))])
        rows = min(cache.room(stride), len(step.tokens) - done)
        chunk = step.tokens[done : done + rows]
        out = _forward(model, cache, chunk)
        outcome.nll += _nats(torch.cat([logits, out[:-1]]), chunk)
        _see(cache, outcome)
        cache.maintain(model)
        logits, done = out[-1:], done + rows
    return logits


def _see(cache: KVCache, outcome: Outcome) -> None:
    outcome.slots = max(outcome.slots, cache.usage.resident_slots)


def _forward(model: BaseModel, cache: KVCache, tokens: list[int]) -> Tensor:
    """One pass; logits (T, V)."""
    ids = torch.tensor([tokens], device=model.spec.device)
    return model.logits(model.forward(model.embed(ids), cache))[0]


def _nats(logits: Tensor, tokens: list[int]) -> list[float]:
    targets = torch.tensor(tokens, device=logits.device)
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none").tolist()
