"""From a file's parts to a `LoadedModel`: weights, tokenizer and chat template of a Llama-family model together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.errors import ConfigError
from megacontext.models.base import LoadedModel, ModelFileError, Weights
from megacontext.models.chat_template import give_chat
from megacontext.models.llama import Llama, LlamaConfig
from megacontext.models.placement import place
from megacontext.models.rope import rope_frequencies
from megacontext.models.summary import summarise
from megacontext.models.text import TokenizersText

if TYPE_CHECKING:
    from torch import Tensor

    from megacontext.config import ModelConfig
    from megacontext.models.folder import Folder

WIDEST_HEAD = 1 << 16


def load_gguf(path: Path, config: ModelConfig) -> LoadedModel:
    """A GGUF file of architecture `llama`."""
    from megacontext.models import gguf_tokenizer
    from megacontext.models.gguf import GGUFFile

    file = GGUFFile(path)
    tokenizer = gguf_tokenizer.build_tokenizer(file.metadata, path)
    text = TokenizersText(
        tokenizer,
        special=gguf_tokenizer.special_ids(file.metadata),
        stop_ids=gguf_tokenizer.stop_ids(file.metadata),
        vocab=file.config.vocab,
        begin=gguf_tokenizer.begin_ids(file.metadata),
    )
    template = file.metadata.get("tokenizer.chat_template")
    give_chat(text, template, gguf_tokenizer.template_variables(file.metadata))
    model = _build(file.config, file, config)
    name = str(file.metadata.get("general.name", path.stem))
    return LoadedModel(model, text, path.stem, summarise(model, name, file.quantisations[0]))


def load_llama(folder: Folder, config: ModelConfig) -> LoadedModel:
    """A folder of model_type llama or mistral, its tokenizer in tokenizer.json."""
    from megacontext.models.folder_text import FolderText

    numbers, texts = llama_config(folder), FolderText(folder.path)
    text = texts.text(numbers.vocab)
    give_chat(text, texts.template, texts.variables)
    model, name = _build(numbers, folder, config), folder.path.resolve().name
    return LoadedModel(model, text, name, summarise(model, name, folder.stored_as))


def llama_config(folder: Folder) -> LlamaConfig:
    """The numbers of config.json. Raises ConfigError for a kind that is not supported."""
    if (activation := folder.raw.get("hidden_act", "silu")) != "silu":
        raise ConfigError(f"{folder.config_file}: hidden_act {activation!r} is not supported; only silu is")
    heads, width = folder.whole("num_attention_heads"), folder.whole("hidden_size")
    head_dim = folder.whole("head_dim", width // heads)
    return LlamaConfig(
        vocab=folder.whole("vocab_size"),
        width=width,
        layers=folder.whole("num_hidden_layers"),
        heads=heads,
        kv_heads=folder.whole("num_key_value_heads", heads),
        head_dim=head_dim,
        inner=folder.whole("intermediate_size"),
        eps=folder.number("rms_norm_eps", 1e-6),
        max_position=folder.whole("max_position_embeddings", 2048),
        frequencies=tuple(_frequencies(folder, head_dim).tolist()),
        window=None if folder.raw.get("sliding_window") is None else folder.whole("sliding_window"),
    )


def _frequencies(folder: Folder, head_dim: int) -> Tensor:
    """`rope_parameters` since transformers 5, before it `rope_theta` and `rope_scaling`."""
    raw, where = folder.raw, folder.config_file
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        raise ModelFileError(f"{where}: rope_scaling must be an object")
    if scaling.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ConfigError(f"{where}: partial_rotary_factor is not supported")
    trained = {"original_max_position_embeddings": raw.get("max_position_embeddings")}
    base = scaling.get("rope_theta", folder.number("rope_theta", 10_000.0))
    if isinstance(base, bool) or not isinstance(base, (int, float)) or not 0 < base < math.inf:
        raise ModelFileError(f"{where}: rope_theta is {base!r}; it must be a positive number")
    if head_dim > WIDEST_HEAD:
        raise ModelFileError(f"{where}: heads of width {head_dim}; {WIDEST_HEAD} is the most that makes sense")
    return rope_frequencies(head_dim, float(base), {**trained, **scaling})


def _build(numbers: LlamaConfig, weights: Weights, config: ModelConfig) -> Llama:
    device, dtype, pack = place(config)
    return Llama(numbers, weights, dtype=dtype, device=device, pack=pack)
