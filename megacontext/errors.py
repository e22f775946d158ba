"""What can go wrong on purpose. Each kind has the exit code that a command line answers with.

A message says what is wrong, where, and how to put it right. Anything else that reaches a command line is a bug.
"""

from __future__ import annotations


class MegaContextError(Exception):
    """Base of every error that a user can cause or mend."""

    exit_code = 1


class ConfigError(MegaContextError):
    """A configuration, a flag or an environment variable is wrong."""

    exit_code = 2


class MissingAsset(MegaContextError):
    """A file that bootstrap brings is not there."""

    exit_code = 3


class StoreError(MegaContextError):
    """A file of a memory is damaged, belongs to something else, or cannot be written."""

    exit_code = 4


class BudgetError(MegaContextError):
    """A budget cannot hold what it must. The message gives the number that would do."""

    exit_code = 5
