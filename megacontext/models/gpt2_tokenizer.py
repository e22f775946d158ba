"""The tokenizer of a GPT-2 folder: tokenizer.json, or the older pair vocab.json and merges.txt.

The pair is put into the form of tokenizer.json, so that both are read by the same code. Which tokenizer a model has is
never guessed: a folder without one is refused.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from megacontext.errors import ConfigError
from megacontext.models.base import ModelFileError
from megacontext.models.folder import read_json
from megacontext.models.folder_text import FolderText
from megacontext.models.text import BYTE_OF

END = "<|endoftext|>"  # GPT-2's own, which begins a text, ends it, and stands for what is unknown
END_ID, MERGES = 50256, 50000  # in OpenAI's vocabulary


class GPT2Text(FolderText):
    """Raises ConfigError where no tokenizer is there, ModelFileError for a damaged one."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.settings = {"bos_token": END, "eos_token": END, "unk_token": END, **self.settings}
        if not self.file.exists():
            self.file = path / "vocab.json"

    @cached_property
    def raw(self) -> dict[str, Any]:
        """The tokenizer in the form of tokenizer.json."""
        if self.file.name == "tokenizer.json":
            return read_json(self.file)
        merges = self.path / "merges.txt"
        if missing := [file.name for file in (self.file, merges) if not file.exists()]:
            raise ConfigError(
                f"{self.path} has no tokenizer: neither tokenizer.json nor the pair vocab.json and merges.txt "
                f"({' and '.join(missing)} missing); fetch the folder again"
            )
        vocab = self._ids("vocab.json")
        byte_level = {"type": "ByteLevel", "add_prefix_space": self._prefix_space, "trim_offsets": True}
        return {
            "version": "1.0",
            "added_tokens": self._added(vocab),
            "pre_tokenizer": {**byte_level, "use_regex": True},
            "decoder": {**byte_level, "use_regex": True},
            "model": {"type": "BPE", "vocab": vocab, "merges": _read_merges(merges)},
        }

    @property
    def kind(self) -> str:
        """bytes: one id a byte; gpt2: OpenAI's vocabulary; else the type in the file: bpe, unigram, ...

        Ask after `text`, which checks the file.
        """
        model = self.raw["model"]
        if (kind := str(model.get("type", "bpe")).lower()) != "bpe":
            return kind
        vocab, merges = model["vocab"], model["merges"]
        if not merges and len(BYTE_OF.keys() & vocab) == len(BYTE_OF) and len(vocab) <= len(BYTE_OF) + 1:
            return "bytes"
        return "gpt2" if len(merges) == MERGES and vocab.get(END) == END_ID else kind

    @property
    def _prefix_space(self) -> bool:
        return self.settings.get("add_prefix_space") is True

    def _added(self, vocab: dict[str, int]) -> list[dict[str, Any]]:
        """Tokens that are found in a text before anything is merged: added_tokens.json's, and the named specials."""
        named = set(self.variables.values())
        found = {**{token: vocab[token] for token in named if token in vocab}, **self._ids("added_tokens.json")}
        shape = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": i, "content": token, "special": token in named, **shape}
            for token, i in sorted(found.items(), key=lambda item: item[1])
        ]

    def _ids(self, name: str) -> dict[str, int]:
        """A JSON file of tokens and their ids."""
        found = self.optional(name)
        wrong = next((t for t, i in found.items() if isinstance(i, bool) or not isinstance(i, int) or i < 0), None)
        if wrong is not None:
            raise ModelFileError(f"{self.path / name}: the id of {wrong!r} is {found[wrong]!r}; fetch it again")
        return found


def _read_merges(file: Path) -> list[str]:
    """Pairs in the order in which they are merged, `left right`; a first line may name the format's version."""
    try:
        lines = file.read_text("utf-8").split("\n")  # splitlines would cut at letters of the vocabulary too
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{file}: not text ({error}); fetch it again") from None
    merges = [line for line in lines if line and not line.startswith("#version")]
    if wrong := next((line for line in merges if len(line.split(" ")) != 2), None):
        raise ModelFileError(f"{file}: {wrong[:80]!r} is no pair of tokens; fetch it again")
    return merges
