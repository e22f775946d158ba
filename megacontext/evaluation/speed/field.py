"""All contenders side by side: they grow to a length, then read, decode and answer there in turns.

A contender that would take too long is left out, with a row that says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice

from megacontext.evaluation.comparison.rows import Row
from megacontext.evaluation.speed.bare import BarePass
from megacontext.evaluation.speed.contenders import SAMPLE, Clock, Timed
from megacontext.evaluation.speed.figures import Rounds, ratio, ratio_of_sums, spread, together
from megacontext.evaluation.speed.names import BARE
from megacontext.telemetry.timing import percentile

PORTIONS = 3  # of the newest text, read in turns
PORTION = 512  # tokens of one, or a quarter of a short history
PROMPTS = 3  # times that each answers


@dataclass(frozen=True)
class Manner:
    """rounds: of decoding, `tokens` each. prompt: tokens of a prompt. read_all: plain caches read so long a history
    themselves, a longer one is filled in. patience: seconds that one contender may take to read, or to decode, at one
    length. trained: positions that the model was trained on. clock: of figures, in seconds.
    """

    rounds: int = 8
    tokens: int = 14
    prompt: int = 64
    read_all: int = 16_384
    patience: float = 300.0
    trained: int = 0
    clock: Clock = time.perf_counter


@dataclass(frozen=True)
class Compared:
    """A ratio of decoding times that is asked for. at: the length where `reach` counts, 0 for all. most: reach is an
    upper bound.
    """

    name: str
    upper: str
    lower: str
    reach: float
    at: int = 0
    most: bool = False


@dataclass
class Turns:
    """What was measured of one contender at one length. note: why there is less of it than of others."""

    read: list[float] = field(default_factory=list)  # tokens a second
    decode: list[list[float]] = field(default_factory=list)  # milliseconds, by round
    first: list[float] = field(default_factory=list)  # milliseconds
    notes: list[str] = field(default_factory=list)
    out: bool = False


class Field:
    """contenders take turns in this order. text: endless tokens, dealt to all alike. report: told how it goes."""

    def __init__(
        self,
        contenders: Sequence[Timed],
        text: Iterator[int],
        manner: Manner,
        bare: BarePass | None = None,
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.contenders, self.manner, self.bare, self.report = list(contenders), manner, bare, report
        for one in self.contenders:
            one.now = manner.clock
        self._text, self._tokens = text, list[int]()
        self._gone: dict[str, str] = {}  # left out at a shorter length already, and why
        self._speed: dict[str, float] = {}  # tokens a second, when it last read
        self.turns: dict[str, Turns] = {}
        self.limit: list[float] = []

    def measure(self, history: int) -> None:
        """All there is to measure at `history` tokens, which must be more than before."""
        self.turns = {one.name: Turns() for one in self.contenders}
        portion = min(PORTION, max(history // 4, 1))
        missing = history - len(self._tokens)
        self._tokens += islice(self._text, missing + self.manner.prompt)
        for one in self.contenders:
            self._grow(one, history - PORTIONS * portion)
        self._read_on(history, portion)
        prompt = self._tokens[history : history + self.manner.prompt]
        self._decode(prompt)
        self._answer(prompt)
        del self._tokens[history:]

    # --- its parts ---

    def _grow(self, one: Timed, length: int) -> None:
        """Take `one` to `length` tokens, untimed."""
        turns, missing = self.turns[one.name], length - one.length
        if one.name in self._gone:
            self._leave(one, self._gone[one.name])
        elif one.beside is not None and self.turns[one.beside.name].out:
            self._leave(one, f"left out with {one.beside.name}")
        elif missing <= 0:
            return
        elif one.plain and length > self.manner.read_all:
            if one.length < SAMPLE:
                one.read(self._tokens[one.length : min(SAMPLE, length)])
            one.fill(length - one.length)
            turns.notes.append(f"filled in from {SAMPLE:,} real rows")
        elif (needed := missing / self._speed.get(one.name, float("inf"))) > self.manner.patience:
            self._leave(one, f"left out: reading takes about {needed:,.0f} s")
        else:
            self.report(f"{one.name}  reads on to {length:,}")
            started = time.perf_counter()
            one.read(self._tokens[one.length : length])
            self._speed[one.name] = missing / (time.perf_counter() - started)

    def _leave(self, one: Timed, why: str) -> None:
        self._gone[one.name] = why
        self.turns[one.name].notes.append(why)
        self.turns[one.name].out = True

    def _taking_part(self) -> list[Timed]:
        return [one for one in self.contenders if not self.turns[one.name].out]

    def _read_on(self, history: int, portion: int) -> None:
        for at in range(history - PORTIONS * portion, history, portion):
            for one in self._taking_part():
                new = self._tokens[one.length : at + portion]
                if not new:
                    continue
                began, started = time.perf_counter(), one.now()
                one.read(new)
                self.turns[one.name].read.append(len(new) / (one.now() - started))
                self._speed[one.name] = len(new) / (time.perf_counter() - began)

    def _decode(self, prompt: Sequence[int]) -> None:
        manner, self.limit = self.manner, []
        spent = dict.fromkeys(self.turns, 0.0)
        with ExitStack() as stack:
            for one in self._taking_part():
                stack.enter_context(one.going_on(prompt))
            for number in range(manner.rounds):
                self.limit += self.bare.time(4, manner.clock)[1:] if self.bare else []
                for one in self._taking_part():
                    share = spent[one.name] / max(number, 1)
                    if spent[one.name] + share > manner.patience:
                        continue
                    started = time.perf_counter()
                    self.turns[one.name].decode.append(one.decode(manner.tokens))
                    spent[one.name] += time.perf_counter() - started

    def _answer(self, prompt: Sequence[int]) -> None:
        for _ in range(PROMPTS):
            for one in self._taking_part():
                if one.answers:
                    self.turns[one.name].first.append(one.first_token(prompt))

    # --- what it found ---

    def rows(self, history: int) -> Iterator[Row]:
        """One row a contender, and the limit's."""
        load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
        if self.limit:
            yield {"history_tokens": history, "cache": BARE, **_decoded([self.limit]), "load": load}
        for one in self.contenders:
            yield {"history_tokens": history, "cache": one.name, **self._figures(one), "load": load}

    def _figures(self, one: Timed) -> Row:
        turns = self.turns[one.name]
        if turns.out:
            return {**_decoded([]), "note": "; ".join(turns.notes)}
        past = one.slots + len(turns.decode) * self.manner.tokens > self.manner.trained > 0
        notes = [*turns.notes, *(["beyond the trained length"] if past else [])]
        return {
            **_decoded(turns.decode),
            "prefill_tokens_per_s": round(spread(turns.read).p50, 1) if turns.read else None,
            "ttft_ms": round(spread(turns.first).p50, 2) if turns.first else None,
            "resident_bytes": one.nbytes,
            "weight_bytes": one.weight_bytes,
            "slots": one.slots,
            "read_slots": one.read_slots,
            "rounds": len(turns.decode),
            "note": "; ".join(notes) or None,
        }

    def ratios(self, history: int, asked: Sequence[Compared]) -> Iterator[Row]:
        """Of those whose two contenders took part."""
        for one in asked:
            upper, lower = (self.turns[name].decode if name in self.turns else [] for name in (one.upper, one.lower))
            if upper and lower:
                yield {"history_tokens": history, "ratio": one.name, **_ratio(one, upper, lower, history)}


def _decoded(rounds: Rounds) -> Row:
    times = together(rounds)
    if not times:
        return {"decode_tokens_per_s": None, "decode_ms_p50": None, "decode_ms_p95": None, "decode_ms_quartiles": None}
    found = spread(times)
    return {
        "decode_tokens_per_s": round(1000 / found.p50, 2),
        "decode_ms_p50": round(found.p50, 3),
        "decode_ms_p95": round(percentile(times, 0.95), 3),
        "decode_ms_quartiles": [round(found.p25, 3), round(found.p75, 3)],
    }


def _ratio(asked: Compared, upper: Rounds, lower: Rounds, history: int) -> Row:
    """Milliseconds of `upper` over those of `lower`."""
    found = ratio(upper, lower)
    counts = asked.at in (0, history)
    reached = found.p50 <= asked.reach if asked.most else found.p50 >= asked.reach
    return {
        "value": round(found.p50, 4),
        "quartiles": [round(found.p25, 4), round(found.p75, 4)],
        "of_sums": round(ratio_of_sums(upper, lower), 4),
        "reach": f"{'<=' if asked.most else '>='} {asked.reach:g}" if counts else None,
        "reached": reached if counts else None,
    }
