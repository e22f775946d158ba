"""From a file's parts to a `LoadedModel`: weights, tokenizer and chat template of a Llama-family model together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from megacontext.models.base import LoadedModel
from megacontext.models.chat_template import TemplateChat
from megacontext.models.llama import Llama
from megacontext.models.placement import pick_device, pick_dtype
from megacontext.models.text import NoChat, TokenizersText

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
    )
    template = file.metadata.get("tokenizer.chat_template")
    _give_chat(text, template, gguf_tokenizer.template_variables(file.metadata))
    model = Llama(file.config, file, dtype=pick_dtype(config), device=pick_device(config))
    name = str(file.metadata.get("general.name", path.stem))
    return LoadedModel(model, text, path.stem, summarise(model, name, file.quantisations[0]))


def load_folder(path: Path, config: ModelConfig) -> LoadedModel:
    """A folder as the Hugging Face hub has them: config.json, *.safetensors, tokenizer.json, tokenizer_config.json."""
    from megacontext.models.safetensors import Folder

    folder = Folder(path)
    text = folder.text()
    _give_chat(text, folder.chat_template, folder.template_variables)
    model = Llama(folder.config, folder, dtype=pick_dtype(config), device=pick_device(config))
    return LoadedModel(model, text, path.resolve().name, summarise(model, path.resolve().name, folder.dtype))


def summarise(model: Llama, name: str, stored: str) -> dict[str, Any]:
    """Plain values for the log. weight_bytes: in memory, shared tensors counted once."""
    spec = model.spec
    tensors = {tensor.data_ptr(): tensor for tensor in model.tensors()}.values()
    return {
        "name": name,
        "family": spec.family,
        "parameters": sum(tensor.numel() for tensor in tensors),
        "layers": spec.layers,
        "heads": spec.heads,
        "kv_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "vocab": spec.vocab,
        "max_position": spec.max_position,
        "stored_as": stored,
        "dtype": str(spec.dtype).removeprefix("torch."),
        "device": str(spec.device),
        "weight_bytes": sum(tensor.nbytes for tensor in tensors),
        "fingerprint": spec.fingerprint,
    }


def _give_chat(text: TokenizersText, template: str | None, variables: dict[str, Any]) -> None:
    """The template's format, and its own end of a turn among the ids that stop a reply."""
    ends = {text.specials[end] for end in TURN_ENDS if end in text.specials}
    if template is None:
        text.chat, text.stop_ids = NoChat(text), text.stop_ids | ends
        return
    chat = TemplateChat(template, text, variables)
    text.chat, text.stop_ids = chat, text.stop_ids | ends | chat.stop_ids
