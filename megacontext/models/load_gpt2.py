"""From a folder's parts to a `LoadedModel`: weights, tokenizer and chat format of a GPT-2 together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.errors import ConfigError
from megacontext.models.base import LoadedModel, ModelFileError
from megacontext.models.chat_template import give_chat
from megacontext.models.gpt2 import ACTIVATIONS, GPT2, GPT2Config
from megacontext.models.gpt2_tokenizer import GPT2Text
from megacontext.models.placement import place
from megacontext.models.summary import summarise

if TYPE_CHECKING:
    from megacontext.config import ModelConfig
    from megacontext.models.folder import Folder
    from megacontext.models.text import TokenizersText

SEEDED = "megacontext_seeded"  # in config.json of a model that is made up: the seed of its weights


def load_gpt2(folder: Folder, config: ModelConfig) -> LoadedModel:
    """A folder of model_type gpt2. Without a chat template, turns are plain paragraphs.

    The model answers with ids that its tokenizer knows: rows of the head beyond them are left out. `summary` says
    which tokenizer it is, and `seeded` with the seed where the model is made up.
    """
    texts, name = GPT2Text(folder.path), folder.path.resolve().name
    rows = folder.whole("vocab_size", 50257)
    text = texts.text(rows)
    give_chat(text, texts.template, texts.variables)
    text.vocab_size = _answered(text, rows, texts.file)
    device, dtype, pack = place(config)
    model = GPT2(gpt2_config(folder, text.vocab_size), folder, dtype=dtype, device=device, pack=pack)
    summary = {**summarise(model, name, folder.stored_as), "tokenizer": texts.kind}
    if SEEDED in folder.raw:
        summary["seeded"] = folder.raw[SEEDED]
    return LoadedModel(model, text, name, summary)


def gpt2_config(folder: Folder, vocab: int | None = None) -> GPT2Config:
    """The numbers of config.json, with transformers' defaults. vocab: ids to answer with, None for all.

    Raises ConfigError for a kind that is not supported.
    """
    if folder.flag("add_cross_attention", False):
        raise ConfigError(f"{folder.config_file}: add_cross_attention is not supported; only decoders alone are")
    activation = folder.raw.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ConfigError(f"{folder.config_file}: activation_function {activation!r} is not supported; {known} are")
    rows, width = folder.whole("vocab_size", 50257), folder.whole("n_embd", 768)
    return GPT2Config(
        vocab=rows if vocab is None else vocab,
        rows=rows,
        width=width,
        layers=folder.whole("n_layer", 12),
        heads=folder.whole("n_head", 12),
        inner=folder.whole("n_inner", 4 * width),
        eps=folder.number("layer_norm_epsilon", 1e-5),
        max_position=folder.whole("n_positions", 1024),
        activation=activation,
        scaled=folder.flag("scale_attn_weights", True),
        scaled_by_layer=folder.flag("scale_attn_by_inverse_layer_idx", False),
        upcast=folder.flag("reorder_and_upcast_attn", False),
        tied=folder.flag("tie_word_embeddings", True),
    )


def _answered(text: TokenizersText, rows: int, file: Path) -> int:
    """How many ids the model answers with; a special beyond its embedding is no harm as long as nobody says it."""
    said = {*text.begin, *text.chat.opening(None), *text.chat.user("a"), *text.chat.close()}
    if far := [i for i in said | (text.known_ids - text.special_ids) if i >= rows]:
        raise ModelFileError(f"{file}: it has ids up to {max(far)}, but the model's vocab_size is {rows}")
    return min(rows, max(text.known_ids, default=-1) + 1)
