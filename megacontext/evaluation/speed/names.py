"""Who is timed, by name. Words alone, for whoever must not wait for the classes."""

from __future__ import annotations

from megacontext.baselines.registry import METHODS
from megacontext.evaluation.names import FULL, MEGACONTEXT, without_oracles

BARE, SAME, THEIRS = "weights", "plain@slots", "transformers"
RUNNABLE = (*without_oracles(), THEIRS)
DEFAULT = (FULL, MEGACONTEXT, *METHODS, THEIRS)
