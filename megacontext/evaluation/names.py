"""Our memories and the controls by name, for whoever must not wait for the classes. Words alone.

What each name means stands at the head of `caches.py`.
"""

from __future__ import annotations

from collections.abc import Collection

from megacontext.baselines.registry import METHODS

FULL, ORACLE, RANDOM, MEGACONTEXT = "full", "oracle", "random", "megacontext"
CONTROLS = (FULL, ORACLE, RANDOM)  # ceiling, ceiling of any choice of blocks, floor: in every table
ORACLES = (ORACLE, "oracle_mass", "oracle_output", "oracle_swap")
OURS = (
    *("full", "recency", "megacontext"),
    *ORACLES,
    *("mix", "lexical", "semantic", "attention", "random"),
    *("absolute", "level0", "gists", "gists_only"),
)
GROUPS: dict[str, Collection[str]] = {"ours": OURS, "baselines": METHODS.keys()}  # names that stand for many


def all_names() -> tuple[str, ...]:
    """Ours, then other people's."""
    return (*OURS, *METHODS)


def without_oracles() -> tuple[str, ...]:
    """Those that a user could have, for whoever has no right answers to tell."""
    return tuple(name for name in all_names() if name not in ORACLES)
