"""The shape of a provisioning step, and the errors it may end with. A step knows nothing about the command line."""

from __future__ import annotations

from abc import ABC, abstractmethod


class StepFailed(Exception):
    """A step could not be done. The message says what, where, and the way out."""

    exit_code = 1


class AssetMissing(StepFailed):
    """Something is not here, and getting it was not allowed (`--offline`)."""

    exit_code = 3


class Step(ABC):
    """One thing that must be in place. `ready` is quick and touches nothing; `run` makes it so or raises StepFailed."""

    name: str

    @abstractmethod
    def ready(self) -> bool:
        """Whether nothing is left to do."""

    @abstractmethod
    def plan(self) -> list[str]:
        """What `run` would do, a line each, with sizes and hashes."""

    @abstractmethod
    def run(self) -> None:
        """Do it. Doing it twice does no harm."""

    def lacks_offline(self) -> str | None:
        """What cannot be had without the network, as a phrase; None where `run` needs none."""
        return None

    def remark(self) -> str | None:
        """What must be said aloud on every run although nothing is left to do."""
        return None


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
