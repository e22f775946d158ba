"""Our memories and the controls by name, for whoever must not wait for the classes. Words alone.

What each name means stands at the head of `caches.py`.
"""

from __future__ import annotations

from megacontext.baselines.registry import METHODS

FULL, ORACLE, RANDOM, MEGACONTEXT = "full", "oracle", "random", "megacontext"
CONTROLS = (FULL, ORACLE, RANDOM)  # ceiling, ceiling of any choice of blocks, floor: in every table
BASELINES = "baselines"  # stands for all of other people's
OURS = (
    *("full", "recency", "megacontext", "oracle"),
    *("mix", "lexical", "semantic", "attention", "random"),
    *("level0", "gists", "gists_only"),
)


def all_names() -> tuple[str, ...]:
    """Ours, then other people's."""
    return (*OURS, *METHODS)
