"""The text side of a model file alone: its tokenizer and chat format, without its weights, in well under a second."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.errors import ConfigError, MissingAsset

if TYPE_CHECKING:
    from megacontext.models.text import TextModel


def load_text(path: Path, vocab: int) -> TextModel:
    """What `load_model` of the same path has as `text`. vocab: ids that the model answers with.

    Raises MissingAsset when nothing is there, ConfigError for a kind that is not supported, ModelFileError for a
    damaged file.
    """
    if not path.exists():
        raise MissingAsset(f"no model at {path}")
    if path.is_file() and path.suffix.lower() == ".gguf":
        return _gguf(path, vocab)
    if path.is_dir() and (path / "config.json").exists():
        return _folder(path, vocab)
    if path.is_dir():
        return _nanochat(path)
    raise ConfigError(f"{path} is no model: expected a .gguf file or a folder")


def _gguf(path: Path, vocab: int) -> TextModel:
    from megacontext.models import gguf_tokenizer
    from megacontext.models.chat_template import give_chat
    from megacontext.models.gguf_header import read_header
    from megacontext.models.text import TokenizersText

    metadata = read_header(path).metadata
    text = TokenizersText(
        gguf_tokenizer.build_tokenizer(metadata, path),
        special=gguf_tokenizer.special_ids(metadata),
        stop_ids=gguf_tokenizer.stop_ids(metadata),
        vocab=vocab,
        begin=gguf_tokenizer.begin_ids(metadata),
    )
    give_chat(text, metadata.get("tokenizer.chat_template"), gguf_tokenizer.template_variables(metadata))
    return text


def _folder(path: Path, vocab: int) -> TextModel:
    from megacontext.models.chat_template import give_chat
    from megacontext.models.folder import read_json
    from megacontext.models.folder_text import FolderText
    from megacontext.models.gpt2_tokenizer import GPT2Text

    gpt2 = read_json(path / "config.json").get("model_type") == "gpt2"
    texts = GPT2Text(path) if gpt2 else FolderText(path)
    text = texts.text(vocab)
    give_chat(text, texts.template, texts.variables)
    return text


def _nanochat(path: Path) -> TextModel:
    from megacontext.models.nanochat import NanochatText
    from nanochat.checkpoint_manager import find_tokenizer, locate
    from nanochat.tokenizer import RustBPETokenizer

    try:
        return NanochatText(RustBPETokenizer.from_directory(find_tokenizer(locate(path))))
    except FileNotFoundError as error:
        raise MissingAsset(f"{path}: {error}") from None
