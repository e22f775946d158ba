"""Configuration: one YAML file = one typed config; the file's name is the run's name.

The models below are the whole vocabulary; the docstring under a field is its help. How a file, the environment and
flags become such a model is in `config_loader.py`.

Knows nothing about files, models or memory: no torch here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from megacontext.span import Grid

PATH = "a path"  # marks the fields that `config_loader` makes absolute
FilePath = Annotated[str, PATH]


class Section(BaseModel):
    """Base of all sections: closed, immutable, documented."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class ModelConfig(Section):
    """Which model, and how it runs."""

    path: FilePath = "artifacts/models/SmolLM2-135M-Instruct.Q4_1.gguf"
    """A .gguf file, a folder with config.json and weights, or a nanochat checkpoint folder."""
    dtype: Literal["auto", "bfloat16", "float32", "float16"] = "auto"
    """Number format; auto: bfloat16 where the hardware computes in it, else float32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs; auto: a GPU if there is one."""
    threads: Annotated[int | None, Field(ge=1, le=1024)] = None
    """CPU threads; null leaves the choice to torch."""
    generation: str | None = None
    """Generation of a nanochat checkpoint, for what cannot be detected."""


class MemoryConfig(Section):
    """What the model sees of its history."""

    cache: Literal["megacontext", "full", "recency", "none"] = "megacontext"
    """megacontext: a budgeted view of everything; full: a plain cache; recency: first block and last tokens."""
    budget: Annotated[int, Field(ge=1)] = 1024
    """Slots in view, everything included."""
    block: Annotated[int, Field(ge=1, le=4096)] = 32
    """Tokens of a block."""
    mode: Literal["frozen", "exact"] = "frozen"
    """frozen: keys and values as first computed; exact: recomputed from the earliest edit, for checking."""
    protect_first: Annotated[int, Field(ge=0)] = 1
    """Blocks at the start that always stay exact."""
    recent_tokens: Annotated[int, Field(ge=0)] = 160
    """Newest tokens that always stay exact."""
    prompt_recent_tokens: Annotated[int, Field(ge=0)] = 480
    """Newest tokens that are exact when a prompt ends, as far as the budget has places."""
    far_blocks: Annotated[int, Field(ge=0)] = 32
    """Most exact blocks before the recent ones that scores choose while text flows; the newest take what is left."""
    nearness: Annotated[int, Field(ge=0)] = 480
    """What being near is worth while text flows: this over a block's distance in tokens, on top of what words ask of
    it; 0: words alone choose."""
    prompt_blocks: Annotated[int, Field(ge=0)] = 6
    """Most exact blocks far from the tail when a prompt ends."""
    prompt_broad_blocks: Annotated[int, Field(ge=0)] = 12
    """So many instead where no block stands out: the best score is weak and many others are half as good or better;
    0: never."""
    prompt_sharpness: Annotated[float, Field(ge=0, le=1)] = 0.78
    """Share of the best block's score that another one needs to be shown when a prompt ends."""
    prompt_follows: Annotated[int, Field(ge=0, le=8)] = 2
    """Further look-ups when a prompt ends, each with what the one before it found; 0: none. Their blocks, and those of
    a question's other parts, have .8 of the best score at most: a greater `prompt_sharpness` leaves them out."""
    prompt_near: bool = True
    """Whether far blocks stand right before the prompt when it ends, instead of before the recent text."""
    prompt_fill: bool = False
    """Whether blocks that are in view anyway may keep free places when a prompt ends."""
    reread_tokens: Annotated[int, Field(ge=0)] = 64
    """Newest tokens that are computed again under the new view when a prompt ends."""
    expand_above: Annotated[float, Field(ge=-1, le=1)] = 0.35
    """Score that deserves detail."""
    hysteresis: Annotated[float, Field(ge=0, le=1)] = 0.0
    """What a block in view may score less than a newcomer and still stay while text flows."""
    cooldown: Annotated[int, Field(ge=0)] = 0
    """Ticks that an edit stays untouched, unless the budget forces it."""
    max_edits: Annotated[int, Field(ge=1)] = 8
    """Most expansions of one tick while text flows."""
    position_slack: Annotated[int, Field(ge=0)] = 256
    """Positions that may lie unused between the pages in view before they are numbered anew."""
    tick_tokens: Annotated[int, Field(ge=1)] = 1
    """Tokens between two refocuses."""
    plan_ahead: bool = True
    """Whether a refocus comes before a pass, knowing its tokens, instead of after it."""
    read_chunk: Annotated[int, Field(ge=1)] = 32
    """Tokens of one pass while reading."""
    gist_slots: tuple[int, ...] = (0, 0, 0, 0)
    """Slots of a gist per level, from level 1."""
    gist_budget: Annotated[int, Field(ge=0)] = 256
    """Slots that gists may take before complete groups of them fold into their parent."""
    attention_weight: Annotated[float, Field(ge=0)] = 0.0
    """What the attention that a page receives weighs in the mix while text flows; 0 spares its measurement."""
    scorer: Literal["mix", "lexical", "semantic", "attention", "recency", "random"] = "mix"
    """What decides which blocks deserve detail."""
    seed: int = 0
    """Seed of the random scorer."""

    @property
    def least_budget(self) -> int:
        """Slots that the protected ends, the open block, a chunk and gists take at worst: the recent part begins inside
        a block, the tail is a block less one, and of each level a group less one of gists lies at both far ends.
        """
        ends = (self.protect_first + 2) * self.block + self.recent_tokens + self.read_chunk - 2
        return ends + 2 * (Grid().fanout - 1) * sum(self.gist_slots)

    def as_shown(self) -> MemoryConfig:
        """These settings; for cache recency, those of a memory that shows recent text alone."""
        return self.recency_only() if self.cache == "recency" else self

    def recency_only(self) -> MemoryConfig:
        """The same slots for the first blocks and the last tokens alone (StreamingLLM's way, arXiv 2309.17453)."""
        newest = self.recent_tokens + self.budget - self.least_budget
        alone = {"scorer": "recency", "far_blocks": 0, "prompt_blocks": 0, "recent_tokens": max(newest, 0)}
        return self.model_copy(update={**alone, "reread_tokens": 0, "gist_slots": (0,) * len(self.gist_slots)})


class PagesConfig(Section):
    """Where exact keys and values of history are kept while they are not in view."""

    dtype: Literal["model", "int8", "int4"] = "model"
    """Format on disk: the model's own, or quantised to 8 or 4 bits a number."""
    ram_bytes: Annotated[int, Field(ge=0)] = 512 << 20
    """Most bytes of pages in memory, those in view aside; what is unused for longest leaves."""
    disk_bytes: Annotated[int | None, Field(ge=1 << 20)] = None
    """Most bytes of pages on disk; null: no limit. What is on neither is computed again when it is wanted."""
    prefetch: Annotated[int, Field(ge=0, le=1024)] = 16
    """Blocks that were scored next to those in view and are brought into memory ahead."""


class ChatConfig(Section):
    """How replies are made."""

    system: str | None = None
    """System prompt; null takes the model's own."""
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.3
    """0 always takes the likeliest token."""
    top_k: Annotated[int | None, Field(ge=1)] = 40
    """Sample among the k likeliest tokens; null: among all."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Most tokens of one reply."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of sampling."""


class TelemetryConfig(Section):
    """What is recorded of a run."""

    log_dir: FilePath = "artifacts/run_logs"
    """Folder of the event logs."""
    delta_nll: Literal["off", "exact", "full"] = "off"
    """Score the newest tokens under the view and under this reference. exact: what is in view, computed afresh;
    full: all of history, as far as the model was trained."""
    delta_nll_every: Annotated[int, Field(ge=1)] = 64
    """Ticks between two such measurements."""
    delta_nll_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    """Newest tokens that are scored."""
    wandb_project: Annotated[str, Field(min_length=1)] = "megacontext-poc"
    """W&B project; nothing is sent unless MEGACONTEXT_ENABLE_WANDB is 1."""
    wandb_entity: str | None = None
    """W&B user or team; null: the account's own."""


class SessionConfig(Section):
    """Where conversations are kept."""

    root: FilePath = "artifacts/sessions"
    """Folder of the sessions, one folder each."""
    name: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")] = None
    """Session to go on with or to begin; null: a new one named after the time."""
    ephemeral: bool = False
    """Keep nothing on disk."""
    durability: Literal["turn", "sync"] = "turn"
    """turn: one sync to disk a turn; sync: one after each append."""


class DemoConfig(Section):
    """The chat's whole configuration."""

    model: ModelConfig = ModelConfig()
    memory: MemoryConfig = MemoryConfig()
    pages: PagesConfig = PagesConfig()
    chat: ChatConfig = ChatConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    session: SessionConfig = SessionConfig()
