"""Recall in a chat: facts told in turns of their own, documents read after them, asked in other words.

The right answer against seven wrong ones of the same kind, by mean log-likelihood a token. Questions and the beginning
of the answer share as few words with the statement as they can: what must be found is the meaning.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import accumulate

from megacontext.evaluation.episodes.steps import Ask, Range, Read, Step
from megacontext.evaluation.tasks.base import Library, Task
from megacontext.evaluation.tasks.chat_facts import KINDS, Kind
from megacontext.evaluation.tasks.told import nth
from megacontext.turns import words_of

THANKS = "Thanks for telling me."
SHORTEST, LONGEST, LAST = 600, 1300, 1500  # tokens of a document, and of the one after the last fact


@dataclass(frozen=True)
class ChatRecall(Task):
    """`facts` facts of different kinds, a document before each and one after the last.

    So no fact lies in the first block or among the last tokens, which every memory shows. tokens: about the
    history's length; documents are scaled to it. choices: answers to choose from. Groups: questions by number. Scores
    8 answers of 1 or 2 tokens for each question of 25 tokens.
    """

    name: str = "chat_recall"
    tokens: int = 6400
    facts: int = 5
    choices: int = 8

    def steps(self, library: Library, seed: int) -> list[Step]:
        draw = self.drawing(seed)
        kinds = draw.sample(KINDS, self.facts)
        options = [draw.sample(kind.values, self.choices) for kind in kinds]
        answers = [draw.randrange(self.choices) for _ in kinds]
        told = [kind.statement.format(words[i]) for kind, words, i in zip(kinds, options, answers, strict=True)]
        read, places = self._history(library, draw, told, seed)
        cast = zip(kinds, options, answers, places, strict=True)
        asks = [self._ask(library, kind, words, answer, place) for kind, words, answer, place in cast]
        asked = draw.sample(asks, len(asks))
        return [read, *(replace(one, groups=(nth(number),)) for number, one in enumerate(asked, 1))]

    def _history(self, library: Library, draw: random.Random, told: list[str], seed: int) -> tuple[Read, list[Range]]:
        """The conversation so far, and where each fact's turn stands in it."""
        chat, encode = library.text.chat, library.text.encode
        documents = iter(self._documents(library, draw, seed))
        tokens = chat.opening(None)
        places: list[Range] = []
        for fact in told:
            tokens += next(documents)
            places.append((len(tokens), len(tokens) + len(chat.user(fact, reply=False))))
            tokens += [*chat.user(fact), *encode(THANKS), *chat.close()]
        return Read([*tokens, *next(documents)]), places

    def _documents(self, library: Library, draw: random.Random, seed: int) -> list[list[int]]:
        """One turn for each document, as long as said above where `tokens` allows."""
        lengths = [draw.randint(SHORTEST, LONGEST) for _ in range(self.facts)] + [LAST]
        lengths = [max(length * self.tokens // (sum(lengths) + 40 * self.facts), 1) for length in lengths]
        text = library.filler(seed, sum(lengths), self.private)
        ends = list(accumulate(lengths))
        pieces = [text[end - length : end] for length, end in zip(lengths, ends, strict=True)]
        return [library.text.chat.user(library.text.decode(piece), reply=False) for piece in pieces]

    def _ask(self, library: Library, kind: Kind, words: list[str], answer: int, place: Range) -> Ask:
        encode = library.text.encode
        turn = library.text.chat.user(kind.question)
        return Ask(
            prompt=[*turn, *encode(kind.answer)],
            words=words_of(library.text, len(turn), len(turn)),
            candidates=[encode(f" {word}") for word in words],
            answer=answer,
            sources=[place],
            after=[*encode("."), *library.text.chat.close()],
        )
