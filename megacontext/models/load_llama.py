"""From a file's parts to a `LoadedModel`: weights, tokenizer and chat template of a Llama-family model together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from megacontext.models.base import LoadedModel, Weights
from megacontext.models.chat_template import TemplateChat
from megacontext.models.llama import Llama, LlamaConfig
from megacontext.models.placement import place
from megacontext.models.text import TokenizersText

if TYPE_CHECKING:
    from megacontext.config import ModelConfig

# Texts of tokens that end a turn in one family or another; those that a vocabulary marks as special stop a reply.
TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "</s>")


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
    _give_chat(text, template, gguf_tokenizer.template_variables(file.metadata))
    model = _build(file.config, file, config)
    name = str(file.metadata.get("general.name", path.stem))
    return LoadedModel(model, text, path.stem, summarise(model, name, file.quantisations[0]))


def load_folder(path: Path, config: ModelConfig) -> LoadedModel:
    """A folder as the Hugging Face hub has them: config.json, *.safetensors, tokenizer.json, tokenizer_config.json."""
    from megacontext.models.folder_text import FolderText
    from megacontext.models.safetensors import Folder

    folder, texts = Folder(path), FolderText(path)
    text = texts.text(folder.config.vocab)
    _give_chat(text, texts.template, texts.variables)
    model, name = _build(folder.config, folder, config), path.resolve().name
    return LoadedModel(model, text, name, summarise(model, name, folder.stored_as))


def _build(numbers: LlamaConfig, weights: Weights, config: ModelConfig) -> Llama:
    device, dtype, pack = place(config)
    return Llama(numbers, weights, dtype=dtype, device=device, pack=pack)


def summarise(model: Llama, name: str, stored: str) -> dict[str, Any]:
    """Plain values for the log. weight_bytes: in memory."""
    spec = model.spec
    return {
        "name": name,
        "family": spec.family,
        "parameters": model.parameters,
        "layers": spec.layers,
        "heads": spec.heads,
        "kv_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "vocab": spec.vocab,
        "max_position": spec.max_position,
        "stored_as": stored,
        "dtype": str(spec.dtype).removeprefix("torch."),
        "device": str(spec.device),
        "weight_bytes": model.weight_bytes,
        "fingerprint": spec.fingerprint,
    }


def _give_chat(text: TokenizersText, template: str | None, variables: dict[str, Any]) -> None:
    """The template's format, and its own end of a turn among the ids that stop a reply."""
    ends = {text.specials[end] for end in TURN_ENDS if end in text.specials}
    if template is None:
        text.stop_ids = text.stop_ids | ends
        return
    chat = TemplateChat(template, text, variables)
    text.chat, text.stop_ids = chat, text.stop_ids | ends | chat.stop_ids
