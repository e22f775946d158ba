"""Who is timed, by name. Words alone, for whoever must not wait for the classes."""

from __future__ import annotations

from megacontext.baselines.registry import METHODS
from megacontext.evaluation.names import FULL, MEGACONTEXT, without_oracles

BARE, SAME, THEIRS = "weights", "plain@slots", "transformers"
ANSWER, SAME_ANSWER = "megacontext@answer", "plain@answer"  # while a view is held, and a plain cache of its slots
RUNNABLE = (*without_oracles(), THEIRS)
DEFAULT = (FULL, MEGACONTEXT, *METHODS, THEIRS)
