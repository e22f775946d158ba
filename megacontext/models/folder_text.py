"""The text side of a model folder: tokenizer.json, tokenizer_config.json, generation_config.json, chat template."""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megacontext.errors import ConfigError
from megacontext.models.base import ModelFileError
from megacontext.models.folder import read_json
from megacontext.models.text import TokenizersText, not_a_panic, well_formed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
CONTROL = re.compile(r"^(<[^<>\s]+>|\[[A-Z_/]+\])$")  # <|im_start|>, </s>, [INST]: control by their look


class FolderText:
    """Reads what is there; everything but tokenizer.json may be missing. Raises ModelFileError for damaged files."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, path / "tokenizer.json"
        named = {name: token for name, token in self.optional("special_tokens_map.json").items() if name in NAMED}
        self.settings = {**named, **self.optional("tokenizer_config.json")}

    def text(self, vocab: int) -> TokenizersText:
        """vocab: rows of the model's embedding."""
        raw = self.raw
        added = [token for token in _objects(raw, "added_tokens", self.file) if self._is_special(token)]
        for token in added:
            token["special"] = True
        tokenizer = _tokenizer(json.dumps(raw), self.file)
        tokenizer.add_special_tokens([t for t in self.variables.values() if tokenizer.token_to_id(t) is not None])
        named = (tokenizer.token_to_id(token) for token in self.variables.values())
        special = {token["id"] for token in added} | {i for i in named if i is not None}
        begin = tokenizer.encode("").ids[:1]
        return TokenizersText(tokenizer, special=special, stop_ids=self._stop_ids(tokenizer), vocab=vocab, begin=begin)

    @property
    def variables(self) -> dict[str, str]:
        """bos_token, eos_token and so on: what a chat template may name."""
        found = {name: self.settings.get(name) for name in NAMED}
        texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()}
        return {name: well_formed(text) for name, text in texts.items() if isinstance(text, str)}

    @property
    def template(self) -> str | None:
        """chat_template.jinja, else the entry of tokenizer_config.json (of several the one called default)."""
        file = self.path / "chat_template.jinja"
        if file.exists():
            try:
                return file.read_text("utf-8")
            except UnicodeDecodeError as error:
                raise ModelFileError(f"{file}: not text ({error}); fetch it again") from None
        found = self.settings.get("chat_template")
        if isinstance(found, list):
            entries = _objects(self.settings, "chat_template", self.path / "tokenizer_config.json")
            found = next((entry.get("template") for entry in entries if entry.get("name") == "default"), None)
        if found is not None and not isinstance(found, str):
            raise ModelFileError(f"{self.path / 'tokenizer_config.json'}: chat_template must be text")
        return found

    @cached_property
    def raw(self) -> dict[str, Any]:
        """The tokenizer as it stands in tokenizer.json, or would stand there."""
        if not self.file.exists():
            raise ConfigError(f"{self.file} is missing; only tokenizers in that format are read (not tokenizer.model)")
        return read_json(self.file)

    def _is_special(self, token: dict[str, Any]) -> bool:
        """Flagged as such; or used by the chat template; or of the look of a control token, whatever its flag says."""
        content = str(token.get("content"))
        used = self.template is not None and content.strip() != "" and content in self.template
        return bool(token.get("special")) or (used and not content.isalnum()) or CONTROL.match(content) is not None

    def _stop_ids(self, tokenizer: Tokenizer) -> set[int]:
        """End and beginning of a text, as the configuration files and the tokenizer's settings name them."""
        stops: set[int] = set()
        for settings in (self.optional("generation_config.json"), self.optional("config.json")):
            for key in ("eos_token_id", "bos_token_id"):
                ids = settings.get(key)
                stops.update(i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int))
        named = (tokenizer.token_to_id(self.variables.get(name, "")) for name in ("eos_token", "bos_token"))
        return stops | {i for i in named if i is not None}

    def optional(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder, empty if it is not there."""
        return read_json(self.path / name) if (self.path / name).exists() else {}


def _objects(settings: dict[str, Any], key: str, where: Path) -> list[dict[str, Any]]:
    """What stands under `key`: a list of objects, empty if nothing stands there."""
    found = settings.get(key) or []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ModelFileError(f"{where}: {key} must be a list of objects; fetch it again")
    return found


def _tokenizer(source: str, where: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(source)
    except BaseException as error:  # the library raises bare Exception, and panics of its own
        if not_a_panic(error):
            raise
        raise ModelFileError(f"{where}: not a tokenizer ({error}); fetch it again") from None
