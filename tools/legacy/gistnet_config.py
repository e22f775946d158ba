"""The `gistnet:` section of the earlier configuration files: its keys as they were, its defaults, its rules.

Read and kept for training. Knows nothing about models or data.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from megacontext.config import Section

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class GistNetModelConfig(Section):
    """The network that makes gists."""

    hidden_size: Count | Literal["auto"] = "auto"
    """Width; auto: the teacher's."""
    block_size: Count = 32
    """Tokens of a block."""
    num_heads: Count = 8
    """Attention heads."""
    mlp_ratio: Positive = 4.0
    """Width of the MLP over hidden_size."""
    num_slots: Count = 1
    """Gists of a block."""
    rope_base: Positive = 10000.0
    """Base of the rotary positions."""
    layer_norm_eps: Positive = 1e-5
    """Epsilon of the layer norms."""

    @field_validator("num_heads")
    @classmethod
    def _divides(cls, heads: int, info: ValidationInfo) -> int:
        width = info.data.get("hidden_size")
        if isinstance(width, int) and width % heads:
            raise ValueError(f"hidden_size must be divisible by num_heads, {width} is not by {heads}")
        return heads


class GistNetPhase(Section):
    """A stretch of training with one objective, window and learning rate."""

    name: str = "phase"
    """Name in logs."""
    objective: Literal["pooling_mse", "delta_nll"]
    """pooling_mse: the gist against the mean of its block's hidden states; delta_nll: what the next tokens lose."""
    max_steps: Count
    """Steps of the optimizer."""
    window_tokens: Count
    """Newest tokens of an example's context that are used."""
    lr: Positive
    """Learning rate."""


class GistNetBaseModel(Section):
    """The model that delta_nll phases are scored by, where it is not the file's own."""

    name: str
    """Hub name or path."""
    torch_dtype: str | None = "auto"
    """Number format."""
    device: str | None = None
    """Where it runs."""
    trust_remote_code: bool = False
    """Read for the sake of old files; code that lies beside a model is never run."""


class GistNetTrainingConfig(Section):
    """How it is trained."""

    batch_size: Count = 4
    """Examples of a step."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of weights and order."""
    phases: tuple[GistNetPhase, ...] = ()
    """One after the other."""
    base_model: GistNetBaseModel | None = None
    """Null: the file's base_model."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load examples."""
    shuffle: bool = True
    """Whether examples come in random order."""
    pin_memory: bool = False
    """Whether examples are put where a GPU can fetch them."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay."""
    accumulate_grad_batches: Count = 1
    """Batches of a step of the optimizer."""
    precision: str | int = "bf16-mixed"
    """Number format of training, in Lightning's words."""
    gradient_clip_val: Positive | None = None
    """Longest gradient."""
    log_every_n_steps: Count = 50
    """Steps between two log lines."""


class GistNetConfig(Section):
    """Network and training."""

    model: GistNetModelConfig = GistNetModelConfig()
    training: GistNetTrainingConfig = GistNetTrainingConfig()
