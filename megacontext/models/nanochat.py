"""nanochat's own checkpoints: the GPT as it is, its tokenizer as `TextModel`, its special tokens as `ChatFormat`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.errors import ConfigError, MissingAsset
from megacontext.models.base import LoadedModel, ModelFileError, fingerprint
from megacontext.models.placement import place

if TYPE_CHECKING:
    from megacontext.config import ModelConfig
    from nanochat.tokenizer import RustBPETokenizer


def load_nanochat(path: Path, config: ModelConfig) -> LoadedModel:
    """The last step of the checkpoint in `path`, or of the largest model among the folders in it.

    Raises MissingAsset when a part is not there, ModelFileError when one is damaged or does not fit.
    """
    from nanochat.checkpoint_manager import load_model_from_dir

    device, dtype, _ = place(config)
    try:
        model, tokenizer, meta = load_model_from_dir(path, device, "eval", generation=config.generation)
    except FileNotFoundError as error:
        raise MissingAsset(f"{path}: {error}") from None
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from None
    model.requires_grad_(False).cast_for_inference(dtype)
    spec, weights = model.spec, list(model.parameters())
    summary = {
        "name": path.resolve().name,
        "family": spec.family,
        "generation": model.generation.name,
        "step": meta.get("step"),
        "parameters": sum(weight.numel() for weight in weights),
        "layers": spec.layers,
        "heads": spec.heads,
        "kv_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "vocab": spec.vocab,
        "max_position": spec.max_position,
        "dtype": str(spec.dtype).removeprefix("torch."),
        "device": str(spec.device),
        "weight_bytes": sum(weight.nbytes for weight in weights),
        "fingerprint": spec.fingerprint,
    }
    return LoadedModel(model, NanochatText(tokenizer), path.resolve().name, summary)


class NanochatText:
    """Implements `TextModel` over nanochat's tokenizer, whose `encode` never finds specials in a text."""

    def __init__(self, tokenizer: RustBPETokenizer) -> None:
        self._tokenizer = tokenizer
        self.vocab_size = tokenizer.get_vocab_size()
        self.special_ids = frozenset(map(tokenizer.encode_special, tokenizer.get_special_tokens()))
        ends = {"<|assistant_end|>", "<|bos|>"} & tokenizer.get_special_tokens()
        self.stop_ids = frozenset({tokenizer.get_bos_token_id(), *map(tokenizer.encode_special, ends)})
        self.chat = NanochatChat(tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        encoding = self._tokenizer.enc
        ranks = sorted(encoding._mergeable_ranks.items(), key=lambda item: item[1])
        specials = sorted(encoding._special_tokens.items())
        return fingerprint([encoding._pat_str.encode(), repr(specials).encode(), *(token for token, _ in ranks)])

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        if token in self.special_ids:
            return b""
        try:
            return self._tokenizer.decode_single_token_bytes(token)
        except (KeyError, OverflowError):  # an unused row of a padded vocabulary
            return b""


class NanochatChat:
    """Implements `ChatFormat`: bos, then <|user_start|> ... <|user_end|> <|assistant_start|> ... <|assistant_end|>."""

    def __init__(self, tokenizer: RustBPETokenizer) -> None:
        self._tokenizer = tokenizer

    def opening(self, system: str | None) -> list[int]:
        """Raises ConfigError for a system message: the format has none of its own."""
        if system is not None:
            raise ConfigError("nanochat's chat format has no system message; leave chat.system out (null)")
        return [self._tokenizer.get_bos_token_id()]

    def user(self, text: str, *, reply: bool = True) -> list[int]:
        special = self._special
        turn = [special("<|user_start|>"), *self._tokenizer.encode(text), special("<|user_end|>")]
        return [*turn, special("<|assistant_start|>")] if reply else turn

    def close(self) -> list[int]:
        return [self._special("<|assistant_end|>")]

    def _special(self, name: str) -> int:
        try:
            return self._tokenizer.encode_special(name)
        except ValueError:
            raise ConfigError(
                f"this checkpoint's tokenizer has no {name}, so it cannot chat; use a later one"
            ) from None
