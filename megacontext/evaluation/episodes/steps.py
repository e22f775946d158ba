"""What a task asks of a memory, as values: an episode is a list of these steps. No tensors here.

Read brings tokens in. Ask poses a question and lets the model choose among candidate answers, by likelihood. Continue
measures the loss of a known text, teacher-forced. How they are carried out is in `run.py`.

Both kinds of scored step may name groups: parts of the episode whose figures are also wanted apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Range = tuple[int, int]  # tokens [start, end) of history
Groups = tuple[str, ...]


@dataclass(frozen=True)
class Read:
    """Tokens that are taken in."""

    tokens: list[int]


@dataclass(frozen=True)
class Ask:
    """A prompt, possible continuations, the index of the right one, and where in history the answer stands.

    after: tokens that follow whatever was chosen (the end of the line, of the turn). stay: whether question and
    choice become history; else the question is asked of a copy of the memory, which then is as it was before.
    """

    prompt: list[int]
    candidates: list[list[int]]
    answer: int
    sources: list[Range]
    after: list[int] = field(default_factory=list)
    stay: bool = False
    words: Range | None = None  # the prompt's tokens that somebody said; None for all
    groups: Groups = ()


@dataclass(frozen=True)
class Continue:
    """A known text whose loss is measured. source: where in history it stood before, if it did.

    groups: of each token, or empty. kl: whether the distance to what full attention predicts is wanted as well.
    """

    tokens: list[int]
    source: Range | None = None
    groups: list[Groups] = field(default_factory=list)
    kl: bool = False


Step = Read | Ask | Continue
