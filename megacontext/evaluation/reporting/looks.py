"""How each memory is drawn, here and in any later picture: the colour says its kind, the marker which one it is.

Okabe and Ito's colours, told apart by whoever sees fewer of them; no two memories of a kind share a marker.
"""

from __future__ import annotations

from typing import NamedTuple

from megacontext.plotting.figures import BLUE, FAINT, GREEN, GREY, INK, LEVELS, ORANGE, PINK, VERMILION

MARKERS = "osD^vPX<>*hp"


class Look(NamedTuple):
    label: str
    colour: str
    marker: str
    width: float = 1.3


_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (LEVELS[1], ("recency", "lexical", "semantic", "attention", "mix", "absolute", "level0", "gists", "gists_only")),
    (ORANGE, ("streaming_llm", "h2o", "tova", "snapkv", "snapkv_aware", "pyramidkv")),
    (PINK, ("keydiff", "expected_attention", "kvzip", "attention_matching")),
    (INK, ("quest", "infllm")),
    (FAINT, ("bm25_reread", "recursive_summary")),
)
LOOKS: dict[str, Look] = {
    "megacontext": Look("MegaContext", BLUE, "o", 2.4),
    "full": Look("plain cache", VERMILION, "s", 2.0),
    "oracle": Look("the right blocks", GREEN, "D", 1.6),
    "random": Look("random pages", GREY, "x"),
    **{name: Look(name, colour, MARKERS[i]) for colour, names in _KINDS for i, name in enumerate(names)},
    "transformers": Look("transformers", VERMILION, "^"),
    "plain@slots": Look("plain cache of as many slots", VERMILION, "v"),
    "megacontext@answer": Look("MegaContext in an answer", BLUE, "P"),
    "plain@answer": Look("plain cache of as many slots, in an answer", VERMILION, "P"),
    "weights": Look("every weight once: the limit", FAINT, "x"),
}


def look_of(name: str) -> Look:
    """Of a memory by its label; of the oracles the oracle's colour, of one not known a grey of its own marker."""
    if name in LOOKS:
        return LOOKS[name]
    colour = GREEN if name.startswith("oracle") else GREY
    return Look(name, colour, MARKERS[sum(map(ord, name)) % len(MARKERS)])


def in_order(names: list[str]) -> list[str]:
    """Known ones first, as they stand above."""
    known = list(LOOKS)
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))
