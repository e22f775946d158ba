"""What tasks of told facts share: statements scattered in running text, and questions with their answers shuffled.

The last sixth of the text holds no statement: whoever sees the newest tokens alone knows nothing, and the newest
statement is no nearer to a question than others.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from megacontext.errors import ConfigError
from megacontext.evaluation.episodes.steps import Ask, Groups, Range, Read
from megacontext.evaluation.tasks.base import Library, Task, scatter

QUIET = 6  # one part in so many, at the end, holds no statement


def tell(library: Library, task: Task, statements: Sequence[str], seed: int) -> tuple[Read, list[Range]]:
    """The statements, in their order, in `task.tokens` tokens of text, and where each one stands.

    Raises ConfigError if the text has no room for them.
    """
    told = [library.text.encode(f"\n\n{statement}\n\n") for statement in statements]
    quiet = task.tokens // QUIET
    around = task.tokens - sum(map(len, told))
    if around - quiet < len(told):
        raise ConfigError(f"{task.name}: {task.tokens} tokens have no room for {len(told)} statements; ask for more")
    text = library.filler(seed, around, task.private)
    read, places = scatter(text[: around - quiet], told, seed, task.private)
    return Read(read.tokens + text[around - quiet :]), places


def ask(
    library: Library,
    draw: random.Random,
    prompt: str,
    right: str,
    wrong: Sequence[str],
    sources: list[Range],
    *,
    groups: Groups = (),
    stay: bool = False,
) -> Ask:
    """The question with `right` among `wrong`, in random order. Answers begin with a space, a full stop ends them."""
    encode = library.text.encode
    options = draw.sample([right, *wrong], len(wrong) + 1)
    return Ask(
        prompt=encode(prompt),
        candidates=[encode(f" {option}") for option in options],
        answer=options.index(right),
        sources=sources,
        after=encode("."),
        stay=stay,
        groups=groups,
    )


def others(draw: random.Random, values: Sequence[str], but: Sequence[str], count: int) -> list[str]:
    """`count` of the values, none of those in `but`; fewer where there are not so many."""
    left = [value for value in dict.fromkeys(values) if value not in but]
    return draw.sample(left, min(count, len(left)))


def alike(library: Library, words: Sequence[str]) -> list[str]:
    """Of the words, those of the commonest number of tokens: whichever is answered, history grows by the same."""
    by_length: dict[int, list[str]] = defaultdict(list)
    for word in words:
        by_length[len(library.text.encode(f" {word}"))].append(word)
    return max(by_length.values(), key=len)


def nth(number: int) -> str:
    """The group of the question `number`, from 1: by powers of two, so "question 64" is the 33rd to the 64th."""
    return f"question {1 << (number - 1).bit_length()}"
