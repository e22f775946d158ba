"""Model and memory of a measurement: the demo configuration, changed by --set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megacontext.config import DemoConfig
from megacontext.config_loader import LoadedConfig, Override, load_config, parse_override
from megacontext.errors import ConfigError

SECTIONS = ("model", "memory", "pages")


def load_settings(path: str | Path, assignments: Sequence[str]) -> LoadedConfig[DemoConfig]:
    """The configuration at `path` with `assignments` (SECTION.FIELD=VALUE) on top. Raises ConfigError."""
    found: dict[str, Override] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name.partition(".")[0] not in SECTIONS:
            raise ConfigError(
                f"--set {assignment}: write SECTION.FIELD=VALUE with a field of {' or '.join(SECTIONS)}, "
                "for example memory.budget=512"
            )
        found[name] = parse_override(DemoConfig, name, text, "flag --set")
    return load_config(path, DemoConfig, overrides=found)
