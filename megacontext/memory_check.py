"""Settings of a memory that cannot work with a model: refused at once, with the number that would do."""

from __future__ import annotations

from megacontext.config import MemoryConfig
from megacontext.errors import BudgetError, ConfigError
from megacontext.span import Grid
from nanochat.hook import ModelSpec


def check_memory(spec: ModelSpec, config: MemoryConfig) -> None:
    """Raises BudgetError or ConfigError."""
    _check_gists(config)
    _check_budget(spec, config)
    if config.mode == "exact" and (any(config.gist_slots) or len(spec.memory_layers) < spec.layers):
        raise ConfigError("memory.mode exact recomputes tokens: it needs gist_slots of 0 and no layer with a window")


def _check_budget(spec: ModelSpec, config: MemoryConfig) -> None:
    if config.budget < config.least_budget:
        raise BudgetError(
            f"memory.budget {config.budget} cannot hold {config.protect_first} protected blocks, "
            f"{config.recent_tokens} recent tokens, the open block, {config.read_chunk} new tokens and their gists; "
            f"set it to {config.least_budget} or more, or lower memory.recent_tokens"
        )
    # Learned positions begin anew before a pass, not within: a whole chunk must fit behind a full view.
    most = spec.max_position - (0 if spec.relocatable else config.read_chunk)
    if config.budget > most:
        raise BudgetError(
            f"memory.budget {config.budget} is more than the {spec.max_position} positions the model was trained on"
            f"{'' if spec.relocatable else f', less a chunk of {config.read_chunk}'}; set it to {most} or less"
        )


def _check_gists(config: MemoryConfig) -> None:
    """A gist is chosen from the tokens, or the children's slots, that it stands for."""
    most = config.block
    for slots in config.gist_slots:
        if not 0 <= slots <= most:
            raise ConfigError(f"memory.gist_slots {list(config.gist_slots)}: {slots} is not between 0 and {most}")
        most = Grid().fanout * slots
    if not config.gist_slots:
        raise ConfigError("memory.gist_slots is empty; give one number per level, such as [0, 0, 0, 0]")
