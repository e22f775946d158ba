"""The `dataset:` section of the earlier configuration files: its keys as they were, its defaults, its rules.

`python -m tools.prepare_dataset` reads it. Knows nothing about files, tokenizers or models; a `tokenizer` and a
`teacher_model` that are missing or `auto` become the base model's name in `tools/dataset/settings.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from megacontext.config import Section

SUFFIXES = (".arrow", ".safetensors")
NO_TEACHER = "off"

Count = Annotated[int, Field(ge=1)]


class SplitConfig(Section):
    """One split: which texts, and where its examples go. Relative paths count from the configuration file's folder."""

    name: str | None = None
    """The split's own key again; may be left out."""
    source: Annotated[str, Field(min_length=1)]
    """A text file, or a glob of them; ** goes into folders."""
    output_path: str
    """The file to write; its suffix is its format: .arrow or .safetensors."""
    max_files: Count | None = None
    """Most files to read, the first ones by name; null: all."""
    max_tokens: Count | None = None
    """Stop after the block that reaches so many tokens; null: never."""

    @field_validator("output_path")
    @classmethod
    def _known_format(cls, path: str) -> str:
        if not path.endswith(SUFFIXES):
            raise ValueError(f"output_path must end with one of {', '.join(SUFFIXES)}")
        return path


class DatasetConfig(Section):
    """Texts in, examples of context and future tokens out, with a teacher's last hidden states where one is named."""

    dataset_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")]
    """Name of the folder of metadata.yaml under data/."""
    tokenizer: Annotated[str, Field(min_length=1)] | None = None
    """Hub name or path of the model whose tokenizer is used; null or auto: base_model.name."""
    block_size: Count = 32
    """Tokens of a block."""
    context_tokens: Count = 4096
    """Tokens of an example's context, a multiple of block_size."""
    context_stride: Count | None = None
    """Tokens from one context to the next, a multiple of block_size; null: context_tokens."""
    horizon: Count = 64
    """Tokens of an example's future, a multiple of block_size."""
    teacher_model: Annotated[str, Field(min_length=1)] | None = None
    """Hub name or path of the model whose hidden states are kept; null or auto: base_model.name; off: none."""
    teacher_batch_size: Count = 4
    """Examples of one pass of the teacher."""
    teacher_dtype: Literal["auto", "bfloat16", "float32", "float16"] | None = "auto"
    """Number format of the teacher; auto: float32 on a CPU, elsewhere bfloat16 where the hardware computes in it."""
    teacher_device: Literal["auto", "cpu", "cuda", "cuda:0", "mps"] = "auto"
    """Where the teacher runs; auto: a GPU if there is one."""
    teacher_trust_remote_code: bool = False
    """Read for the sake of old files; code that lies beside a model is never run."""
    splits: Annotated[dict[str, SplitConfig], Field(min_length=1)]
    """The splits by name, at least one."""

    @field_validator("context_tokens", "context_stride", "horizon")
    @classmethod
    def _whole_blocks(cls, tokens: int | None, info: ValidationInfo) -> int | None:
        block = info.data.get("block_size")
        if tokens is not None and block is not None and tokens % block:
            raise ValueError(f"{info.field_name} must be a multiple of block_size, which is {block}")
        return tokens

    @field_validator("splits")
    @classmethod
    def _named_by_key(cls, splits: dict[str, SplitConfig]) -> dict[str, SplitConfig]:
        for key, split in splits.items():
            if split.name not in (None, key):
                raise ValueError(f"Split key {key!r} must match split.name {split.name!r}")
        return splits

    @property
    def stride(self) -> int:
        """Tokens from one context to the next."""
        return self.context_stride or self.context_tokens

    @property
    def example_tokens(self) -> int:
        """Tokens of an example: context and future."""
        return self.context_tokens + self.horizon
