"""One to three facts that must be put together, after bAbI and BABILong (Kuratov et al. 2024), from a small world.

Things lie in holders, people have the holders and move about; where is the thing now? A small model cannot jump to the
place, so the answer names every step, and is judged as a whole by its likelihood.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

from megacontext.evaluation.episodes.steps import Range, Step
from megacontext.evaluation.tasks.base import Library, Task
from megacontext.evaluation.tasks.told import ask, tell
from megacontext.evaluation.tasks.words import HOLDERS, OBJECTS, PEOPLE, PLACES

Event = tuple[str, int, int]  # kind, person, turn


class _World(NamedTuple):
    """Person i carries holder i, in which thing i lies, and is at places[i][-1] now."""

    people: list[str]
    holders: list[str]
    things: list[str]
    places: list[list[str]]

    def told(self, event: Event) -> str:
        kind, i, turn = event
        if kind == "lies":
            return f"The {self.things[i]} is in the {self.holders[i]}."
        if kind == "has":
            return f"The {self.holders[i]} is with {self.people[i]}."
        return f"{self.people[i]} moved to the {self.places[i][turn]}."

    def where(self, i: int, place: str) -> str:
        """What follows on "The box is with"."""
        return f"{self.people[i]}. {self.people[i]} moved to the {place}"

    def inside(self, holder: int, i: int, place: str) -> str:
        """What follows on "The coin is in the"."""
        return f"{self.holders[holder]}. The {self.holders[holder]} is with {self.where(i, place)}"


@dataclass(frozen=True)
class Babi(Task):
    """`people` with a holder and a thing each, who move `moves` times; the last place is right.

    Groups: "one fact" (a person's place), "two facts" (a holder's), "three facts" (a thing's). Wrong answers take steps
    of others, or an older place. Reads 6,000 tokens and 12 questions of 22 tokens; scores 6 answers of 1, 9 and 15
    tokens.
    """

    name: str = "babi"
    tokens: int = 6000
    people: int = 4
    moves: int = 2

    def steps(self, library: Library, seed: int) -> list[Step]:
        draw = self.drawing(seed)
        world, events = self._world(draw), self._events(draw)
        read, places = tell(library, self, [world.told(event) for event in events], seed)
        at = dict(zip(events, places, strict=True))
        asks = [self._ask(library, draw, world, at, i, facts) for i in range(self.people) for facts in (1, 2, 3)]
        return [read, *draw.sample(asks, len(asks))]

    def _world(self, draw: random.Random) -> _World:
        spots = draw.sample(PLACES, self.people * self.moves)
        people, holders = draw.sample(PEOPLE, self.people), draw.sample(HOLDERS, self.people)
        places = [spots[i :: self.people] for i in range(self.people)]
        return _World(people, holders, draw.sample(OBJECTS, self.people), places)

    def _events(self, draw: random.Random) -> list[Event]:
        """In the order in which they are told: things and holders in any order, before and between the moves."""
        everyone = range(self.people)
        still = [(kind, i, 0) for kind in ("lies", "has") for i in everyone]
        moves = [("move", i, turn) for turn in range(self.moves) for i in draw.sample(everyone, self.people)]
        count = len(still) + len(moves)
        spots = set(draw.sample(range(count), len(moves)))
        rest, going = iter(draw.sample(still, len(still))), iter(moves)
        return [next(going) if spot in spots else next(rest) for spot in range(count)]

    def _ask(
        self, library: Library, draw: random.Random, world: _World, at: dict[Event, Range], i: int, facts: int
    ) -> Step:
        """Where person i is, or what they carry, or what lies in it; `facts` are needed to know."""
        sources = [at["lies", i, 0], at["has", i, 0], at["move", i, self.moves - 1]][3 - facts :]
        group = ("one fact", "two facts", "three facts")[facts - 1]
        prompt, right, *wrong = self._answers(draw, world, i, facts)
        return ask(library, draw, prompt, right, wrong, sources, groups=(group,))

    def _answers(self, draw: random.Random, world: _World, i: int, facts: int) -> list[str]:
        """The question, the right answer and five wrong ones: each takes a step of persons j or k, or an old place."""
        j, k = draw.sample([other for other in range(self.people) if other != i], 2)
        (now, old), (elsewhere, before), (third, _) = ((world.places[p][-1], world.places[p][0]) for p in (i, j, k))
        if facts == 1:
            who = world.people[i]
            prompt = f"\n\nQuestion: Where is {who}?\nAnswer: {who} moved to the"
            return [prompt, now, old, elsewhere, third, before, world.places[k][0]]
        pairs = [(i, now), (i, old), (i, elsewhere), (j, now), (j, elsewhere), (k, third)]
        if facts == 2:
            what = world.holders[i]
            prompt = f"\n\nQuestion: Where is the {what}?\nAnswer: The {what} is with"
            return [prompt, *(world.where(who, place) for who, place in pairs)]
        what = world.things[i]
        prompt = f"\n\nQuestion: Where is the {what}?\nAnswer: The {what} is in the"
        chains = [*((i, *pair) for pair in pairs[:4]), (j, i, now), (j, j, elsewhere)]
        return [prompt, *(world.inside(*chain) for chain in chains)]
