"""The memories that are compared, by name: `make_contender` is the factory. All but `full` read the same slots.

full          a plain cache: everything, for ever
recency       the first block and the last tokens: a sliding window of all the slots there are
megacontext   the memory section of the configuration, as it stands
oracle        the same, told from outside which blocks are the right ones, and showing as many as there is room for: the
              ceiling of any scorer
oracle_mass, oracle_output, oracle_swap: the same, told what will be scored: blocks by the attention they will get, by
              the change of attention's output without them, by the loss they spare (evaluation/oracles)
lexical ...   the same, with that scorer alone; random: the floor
absolute      the same, every token at its position in the text
level0        the same without gists; gists: a slot for every block that is not shown; gists_only: no far page at all
h2o, quest... other people's, by their names in `megacontext/baselines/registry.py`

A name may carry changes: `megacontext[far_blocks=8,recent_tokens=736]`, `streaming_llm[sinks=0]`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from megacontext.baselines.registry import METHODS
from megacontext.config import MemoryConfig, PagesConfig
from megacontext.errors import ConfigError
from megacontext.focus.allocator import FocusAllocator

if TYPE_CHECKING:
    from pathlib import Path

    from megacontext.evaluation.episodes.run import Hint
    from megacontext.focus.base import Scorer
    from megacontext.models.text import TextModel
    from megacontext.tree.memory_files import MemoryFiles
    from nanochat.hook import BaseModel, KVCache, ModelSpec

FULL, RECENCY, MEGACONTEXT, ORACLE, RANDOM = "full", "recency", "megacontext", "oracle", "random"
ABSOLUTE = "absolute"
ORACLE_MASS, ORACLE_OUTPUT, ORACLE_SWAP = "oracle_mass", "oracle_output", "oracle_swap"
LOOKING_AHEAD = (ORACLE_MASS, ORACLE_OUTPUT, ORACLE_SWAP)
ORACLES = (ORACLE, *LOOKING_AHEAD)
SCORERS: tuple[str, ...] = get_args(MemoryConfig.model_fields["scorer"].annotation)
VARIANTS: dict[str, dict[str, Any]] = {  # what differs from the memory section
    MEGACONTEXT: {},
    **{name: {} for name in ORACLES},
    **{name: {"scorer": name} for name in SCORERS if name != RECENCY},
    ABSOLUTE: {},
    "level0": {"gist_slots": (0, 0, 0, 0)},
    "gists": {"gist_slots": (1, 0, 0, 0)},
    "gists_only": {"gist_slots": (1, 0, 0, 0), "scorer": "recency", "far_blocks": 0, "prompt_blocks": 0},
}
OURS = (FULL, RECENCY, *VARIANTS)
CACHES = (*OURS, *METHODS)
FULL_STRIDE = 128  # tokens of a plain cache's scored pass: it decides nothing between passes

Settings = Mapping[str, Any]
_NAME = re.compile(r"(?P<base>[a-z0-9_]+)(\[(?P<changes>[^\]]*)\])?")


@dataclass(frozen=True)
class Contender:
    """A fresh memory. stride: tokens of one scored pass. budget: most slots it may read, None for any number.

    files: what `close` lets go of.
    """

    cache: KVCache
    stride: int
    budget: int | None
    hint: Hint | None = None
    files: MemoryFiles | None = None

    def close(self) -> None:
        """The memory is not used any more."""
        if self.files is not None:
            self.files.close()


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """`base[field=value,...]` -> (base, changes). Values are Python's; a bare word is a string. Raises ConfigError."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f"cache {name!r}: write a name, or name[field=value,...]")
    changes: dict[str, Any] = {}
    for part in re.split(r",(?![^()]*\))", match["changes"] or ""):
        key, equals, value = part.partition("=")
        if part and not (equals and key.strip().isidentifier()):
            raise ConfigError(f"cache {name!r}: {part!r} is no field=value")
        if part:
            changes[key.strip()] = _value(value.strip())
    return match["base"], changes


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "null": None}
    if text in words:
        return words[text]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def settings(name: str, memory: MemoryConfig) -> MemoryConfig | None:
    """The memory section that contender `name` runs with: None for a plain cache and for other people's.

    Raises ConfigError for a change that the section does not know.
    """
    base, changes = split_name(name)
    if base == RECENCY:
        memory = memory.recency_only()
    elif base not in VARIANTS:
        return None
    try:
        whole = {**memory.model_dump(), "cache": MEGACONTEXT, **VARIANTS.get(base, {}), **changes}
        config = MemoryConfig.model_validate(whole)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"cache {name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return _with_room(config) if base == ORACLE and "prompt_blocks" not in changes else config


def _with_room(memory: MemoryConfig) -> MemoryConfig:
    """An oracle shows as many of the blocks that it is told as there is room for: so it is a ceiling for what stands
    in many places as well.
    """
    places = FocusAllocator.of(memory).prompt_places(memory.budget, memory.block)
    return memory.model_copy(update={"prompt_blocks": max(places, memory.prompt_blocks)})


def depends_on(name: str, memory: MemoryConfig, tuned: Settings | None = None) -> dict[str, Any]:
    """Everything that contender `name` is made from, as plain values: what a row says of it, and is found again by."""
    base, changes = split_name(name)
    config = settings(name, memory.model_copy(update=dict(tuned or {})))
    if config is not None:
        return config.model_dump(mode="json")
    if base == FULL:
        return {}
    return {**(tuned or {}), **changes, "budget": memory.budget, "read_chunk": memory.read_chunk}


def make_contender(
    name: str,
    spec: ModelSpec,
    memory: MemoryConfig,
    *,
    pages: PagesConfig | None = None,
    folder: Path | None = None,
    text: TextModel | None = None,
    model: BaseModel | None = None,
    tuned: Settings | None = None,
) -> Contender:
    """An empty memory called `name` (see the head of this file).

    memory: budget and pass size of all, every setting of ours. folder: an empty one for its pages, kept as `pages`
    says; None: all in memory. text: for memories that work on text, and for those that look words up.
    model: for oracles that look ahead. tuned: settings over the method's own defaults; changes in the name go over
    both. Raises BudgetError for too small a budget, ConfigError for a name or setting that is not there, or an oracle
    without its model.
    """
    base, changes = split_name(name)
    if base == FULL:
        from nanochat.kv_cache import DenseCache

        return Contender(DenseCache(spec), FULL_STRIDE, None)
    if base in METHODS:
        return _baseline(name, spec, memory, {**(tuned or {}), **changes}, text)
    if base not in CACHES:
        raise ConfigError(f"no cache {name!r}; there are {', '.join(CACHES)}")
    config = settings(name, memory.model_copy(update=dict(tuned or {})))
    assert config is not None  # full and the baselines are gone
    oracle = _oracle(name, config, model)
    return _ours(name, spec, config, oracle, pages, folder, text)


def _baseline(name: str, spec: ModelSpec, memory: MemoryConfig, changes: Settings, text: TextModel | None) -> Contender:
    from megacontext.baselines.limits import Limits

    limits = Limits(memory.budget, memory.read_chunk)
    method = METHODS[split_name(name)[0]]
    try:
        cache = method.make(spec, limits, changes, text)
    except TypeError as error:  # a setting that is not there
        raise ConfigError(f"cache {name}: {error}") from error
    return Contender(cache, method.stride or limits.spare, memory.budget)


def _oracle(name: str, config: MemoryConfig, model: BaseModel | None) -> tuple[Scorer, Hint] | None:
    """The scorer of an oracle and how it is told, None for any other memory."""
    base = split_name(name)[0]
    if base == ORACLE:
        from megacontext.focus.scorers import OracleScorer

        given = OracleScorer(config.block)
        return given, given.hint
    if base not in LOOKING_AHEAD:
        return None
    if model is None:
        raise ConfigError(f"cache {name}: this oracle asks the model itself; give make_contender the model")
    from megacontext.evaluation.oracles.scorers import ChangeOracle, MassOracle, SwapOracle

    kind = {ORACLE_MASS: MassOracle, ORACLE_OUTPUT: ChangeOracle, ORACLE_SWAP: SwapOracle}[base]
    ahead = kind(model, config)
    return ahead, ahead.told.tell


def _ours(
    name: str,
    spec: ModelSpec,
    config: MemoryConfig,
    oracle: tuple[Scorer, Hint] | None,
    pages: PagesConfig | None,
    folder: Path | None,
    text: TextModel | None,
) -> Contender:
    from megacontext.cache import ContextCache
    from megacontext.evaluation.ablations import AbsoluteCache
    from megacontext.tree.memory_files import MemoryFiles

    scorer, hint = oracle or (None, None)
    files = None if folder is None else MemoryFiles(folder, spec, config.block, pages or PagesConfig())
    try:
        kind = AbsoluteCache if split_name(name)[0] == ABSOLUTE else ContextCache
        cache = kind(spec, config, scorer, files=files, text=text)
    except ValueError as error:  # a scorer that is not there
        raise ConfigError(f"cache {name}: {error}") from error
    ahead = config.plan_ahead and config.mode != "exact"  # a plan made ahead knows all tokens of its pass
    stride = 1 if ahead else config.tick_tokens
    return Contender(cache, stride, config.budget, hint, files)
