"""The earlier configuration files: their keys as they were, and three sections of ours in the same file.

What is to be decoded stands either in `base_model:` or, in older files, at the top of the file (`model_name:`, then
`prompt:` and the others). Both are read: a value of `base_model` outranks one at the top, and a key without a value
counts as missing. `LegacyConfig.decode` is what they come to.

Knows nothing about model files, memory or telemetry at work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from megacontext.config import FilePath, MemoryConfig, Section, TelemetryConfig
from megacontext.config_loader import LoadedConfig, Override, load_config
from megacontext.errors import ConfigError
from tools.legacy.dataset_config import DatasetConfig
from tools.legacy.gistnet_config import GistNetConfig

SUFFIXES = (".yaml", ".yml", ".json")
PLAIN = ("full", "none")  # memories without a budget: each token has a position of its own

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Device = Literal["auto", "cpu", "cuda", "cuda:0", "mps"]


@dataclass(frozen=True)
class Decode:
    """`DecodeKeys` with a model's name and all defaults."""

    model_name: str
    torch_dtype: Dtype = "bfloat16"
    device: Device = "auto"
    trust_remote_code: bool = False
    load_kwargs: dict[str, Any] = field(default_factory=dict)
    run_name: str = "base_llm_demo"
    prompt: str = "MegaContext is "
    max_new_tokens: int = 32
    do_sample: bool = False
    temperature: float = 0.7
    wandb_project: str = "megacontext-poc"


class DecodeKeys(Section):
    """What is decoded by which model. All may be left out: `Decode` has the defaults."""

    model_config = ConfigDict(protected_namespaces=())  # `model_name` is the earlier key

    model_name: str | None = None
    """Hub name, or path of a model's folder or file."""
    torch_dtype: Dtype | None = None
    """Number format; auto: bfloat16 where the hardware computes in it, else float32."""
    device: Device | None = None
    """Where the model runs; auto: a GPU if there is one."""
    trust_remote_code: bool | None = None
    """Read for the sake of old files; code that lies beside a model is never run."""
    load_kwargs: dict[str, Any] | None = None
    """Read for the sake of old files; models are not loaded by transformers any more."""
    run_name: str | None = None
    """Name in the notes of a turn; the log and the W&B run are named after the file and the time."""
    prompt: str | None = None
    """What is continued, where the command line says nothing else."""
    max_new_tokens: Annotated[int | None, Field(ge=1)] = None
    """Most tokens of the continuation."""
    do_sample: bool | None = None
    """Whether tokens are drawn; else the likeliest is taken."""
    temperature: Annotated[float | None, Field(ge=0, le=10)] = None
    """Of drawing; 0 takes the likeliest token."""
    wandb_project: Annotated[str | None, Field(min_length=1)] = None
    """W&B project, unless telemetry.wandb_project names another."""


class BaseModelConfig(DecodeKeys):
    """Which model, and what it decodes."""

    name: str | None = None
    """Hub name, or path of a model's folder or file."""


class LegacyMemoryConfig(MemoryConfig):
    """What the model sees of its history. The budget suits GPT-2, which has 1,024 positions."""

    budget: Annotated[int, Field(ge=1)] = 512
    """Slots in view, everything included."""


class CorpusConfig(Section):
    """What comes before the configured prompt, and how tokens are drawn."""

    corpus: FilePath = "artifacts/corpus/sample.txt"
    """A text; its beginning is read before the configured prompt."""
    corpus_tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Tokens of it; 0: none."""
    top_k: Annotated[int | None, Field(ge=1)] = 50
    """Draw among the k likeliest tokens, 50 being what transformers' generate does; null: among all."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """Seed of drawing."""


class LegacyConfig(DecodeKeys):
    """An earlier configuration file, with sections of ours: memory, telemetry, demo."""

    name: str | None = None
    """Name of the configuration."""
    description: str | None = None
    """What it is for."""
    base_model: BaseModelConfig = BaseModelConfig()
    """Which model, and what it decodes."""
    dataset: DatasetConfig | None = None
    """For `python -m tools.prepare_dataset`."""
    gistnet: GistNetConfig | None = None
    """For training."""
    memory: LegacyMemoryConfig = LegacyMemoryConfig()
    """What the model sees of its history."""
    telemetry: TelemetryConfig = TelemetryConfig()
    """What is recorded of a run."""
    demo: CorpusConfig = CorpusConfig()
    """What comes before the configured prompt, and how tokens are drawn."""

    @property
    def decode(self) -> Decode:
        """`base_model` over the top of the file over the defaults. Raises ConfigError unless it names one model."""
        names = {self.base_model.name, self.base_model.model_name, self.model_name} - {None}
        if len(names) != 1:
            found = f"more than one model: {', '.join(sorted(map(str, names)))}" if names else "no model"
            raise ConfigError(f"the file names {found}; set base_model.name to one, for example sshleifer/tiny-gpt2")
        keys = [key for key in DecodeKeys.model_fields if key != "model_name"]
        layers = [self.base_model, self]
        known = {key: value for layer in reversed(layers) for key in keys if (value := getattr(layer, key)) is not None}
        return Decode(model_name=str(names.pop()), **known)

    @property
    def recorded(self) -> TelemetryConfig:
        """`telemetry`, with the W&B project of `base_model` where it names none."""
        if "wandb_project" in self.telemetry.model_fields_set:
            return self.telemetry
        return self.telemetry.model_copy(update={"wandb_project": self.decode.wandb_project})


def load_legacy(
    path: str | Path,
    *,
    overrides: Mapping[str, Override] | None = None,
    environ: Mapping[str, str] | None = None,
) -> LoadedConfig[LegacyConfig]:
    """Read an earlier configuration file, .yaml, .yml or .json. Raises ConfigError."""
    suffix = Path(path).suffix
    if suffix.lower() not in SUFFIXES and Path(path).is_file():
        raise ConfigError(f"Unsupported config extension: {suffix} ({path}); use one of {', '.join(SUFFIXES)}")
    return load_config(path, LegacyConfig, overrides=overrides, environ=environ)
