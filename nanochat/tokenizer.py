"""Text to ids and back: byte-level BPE in the style of GPT-4, run by tiktoken.

Special tokens come after the ordinary ones and are never found in text: `encode("<|bos|>")` is ordinary tokens. Only
`encode_special`, `prepend`, `append` and the conversation format place them.

Training is in tokenizer_training, files in tokenizer_files, the conversation format in conversation.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import tiktoken

from nanochat.conversation import Conversation, render, render_prompt
from nanochat.tokenizer_files import TokenizerFacts, read_tokenizer, write_pickle, write_tokenizer
from nanochat.tokenizer_training import BYTES, train_ranks

if TYPE_CHECKING:
    import torch

SPECIAL_TOKENS = [
    "<|bos|>",  # begins every document
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",  # the assistant calls the python tool
    "<|python_end|>",
    "<|output_start|>",  # the tool answers
    "<|output_end|>",
]

# A data contract: any other string changes ids. GPT-4's pattern, but digits in groups of one or two.
SPLIT_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|"""
    r"""\s*[\r\n]|\s+(?!\S)|\s+"""
)

TOKEN_BYTES_NAME = "token_bytes.pt"
_RED, _GREEN, _GREY, _RESET = "\033[91m", "\033[92m", "\033[90m", "\033[0m"


class RustBPETokenizer:
    """Upstream's name and methods. enc: a tiktoken.Encoding; bos_token: the special that begins a document."""

    def __init__(self, enc: tiktoken.Encoding, bos_token: str) -> None:
        self.enc = enc
        self.bos_token_id = self.encode_special(bos_token)

    @classmethod
    def train_from_iterator(cls, text_iterator: Iterable[str], vocab_size: int) -> RustBPETokenizer:
        """Train on texts. vocab_size counts the nine specials, so it must be at least 265; short texts yield fewer."""
        room = vocab_size - len(SPECIAL_TOKENS)
        if room < BYTES:
            least = BYTES + len(SPECIAL_TOKENS)
            raise ValueError(f"vocab_size {vocab_size} is too small: bytes and specials take {least}")
        ranks = train_ranks(text_iterator, room, SPLIT_PATTERN)
        specials = {name: len(ranks) + n for n, name in enumerate(SPECIAL_TOKENS)}
        return cls(_encoding(TokenizerFacts("rustbpe", SPLIT_PATTERN, ranks, specials)), "<|bos|>")

    @classmethod
    def from_directory(cls, tokenizer_dir: str | Path) -> RustBPETokenizer:
        """Load what `save` wrote, upstream's tokenizer.pkl (without unpickling freely), or the older Hugging Face file.

        Raises FileNotFoundError or ValueError, both naming the file.
        """
        facts = read_tokenizer(Path(tokenizer_dir))
        bos = "<|bos|>" if "<|bos|>" in facts.specials else "<|endoftext|>"
        return cls(_encoding(facts), bos)

    @classmethod
    def from_pretrained(cls, tiktoken_name: str) -> RustBPETokenizer:
        """One of tiktoken's own, such as "gpt2". Downloads it on first use; its <|endoftext|> begins documents."""
        return cls(tiktoken.get_encoding(tiktoken_name), "<|endoftext|>")

    def save(self, tokenizer_dir: str | Path, *, pickle_for_upstream: bool = False) -> None:
        """Write tokenizer.json and token_bytes.pt, and with `pickle_for_upstream` also the tokenizer.pkl it reads."""
        folder = Path(tokenizer_dir)
        folder.mkdir(parents=True, exist_ok=True)
        facts = _facts(self.enc)
        write_tokenizer(folder, facts)
        write_token_bytes(folder, self)
        if pickle_for_upstream:
            write_pickle(folder, _encoding(facts))  # a fresh one: tiktoken pickles its registered ones by name only

    def get_vocab_size(self) -> int:
        return self.enc.n_vocab

    def get_special_tokens(self) -> set[str]:
        return self.enc.special_tokens_set

    def id_to_token(self, id: int) -> str:
        return self.enc.decode([id])

    def encode_special(self, text: str) -> int:
        """Id of a special token. Raises ValueError if there is no such special."""
        token_id = self.enc._special_tokens.get(text)
        if token_id is None:
            raise ValueError(
                f"{text!r} is no special token here; known: {', '.join(sorted(self.get_special_tokens()))}"
            )
        return token_id

    def get_bos_token_id(self) -> int:
        return self.bos_token_id

    @overload
    def encode(
        self, text: str, prepend: int | str | None = None, append: int | str | None = None, num_threads: int = 8
    ) -> list[int]: ...

    @overload
    def encode(
        self,
        text: list[str],
        prepend: int | str | None = None,
        append: int | str | None = None,
        num_threads: int = 8,
    ) -> list[list[int]]: ...

    def encode(self, text, prepend=None, append=None, num_threads=8):
        """Ids of a text, or a list of ids for a list of texts. prepend, append: an id or a special's spelling.

        Raises TypeError for anything else than text or a list of texts.
        """
        before, after = self._place(prepend), self._place(append)
        if isinstance(text, str):
            return [*before, *self.enc.encode_ordinary(text), *after]
        if isinstance(text, (list, tuple)):
            rows = self.enc.encode_ordinary_batch(list(text), num_threads=num_threads)
            return [[*before, *row, *after] for row in rows]
        raise TypeError(f"encode takes a text or a list of texts, got {type(text).__name__}")

    def _place(self, token: int | str | None) -> list[int]:
        if token is None:
            return []
        return [token if isinstance(token, int) else self.encode_special(token)]

    __call__ = encode

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids. Bytes that are no UTF-8 become U+FFFD."""
        return self.enc.decode(ids)

    def decode_single_token_bytes(self, token_id: int) -> bytes:
        """Raw bytes of one token; a special's spelling. Raises KeyError for an id out of the vocabulary."""
        return self.enc.decode_single_token_bytes(token_id)

    def render_conversation(self, conversation: Conversation, max_tokens: int = 2048) -> tuple[list[int], list[int]]:
        """(ids, mask), cut to max_tokens; mask 1 where the assistant is trained. See nanochat.conversation."""
        return render(self, conversation, max_tokens)

    def render_for_completion(self, conversation: Conversation) -> list[int]:
        """Ids up to the point where the assistant writes the last message, which is left out."""
        return render_prompt(self, conversation)

    def visualize_tokenization(self, ids: Sequence[int], mask: Sequence[int], with_token_id: bool = False) -> str:
        """Tokens in green where mask is 1, red elsewhere, for a terminal."""
        pieces = []
        for token_id, trained in zip(ids, mask, strict=True):
            number = f"{_GREY}({token_id}){_RESET}" if with_token_id else ""
            pieces.append(f"{_GREEN if trained else _RED}{self.decode([token_id])}{_RESET}{number}")
        return "|".join(pieces)


def _encoding(facts: TokenizerFacts) -> tiktoken.Encoding:
    """Raises ValueError if tiktoken refuses the pattern."""
    return tiktoken.Encoding(
        facts.name, pat_str=facts.pattern, mergeable_ranks=facts.ranks, special_tokens=facts.specials
    )


def _facts(encoding: tiktoken.Encoding) -> TokenizerFacts:
    return TokenizerFacts(encoding.name, encoding._pat_str, encoding._mergeable_ranks, encoding._special_tokens)


# The tokenizer of the base folder -------------------------------------------------------------------------------------


def tokenizer_folder() -> Path:
    """$NANOCHAT_BASE_DIR/tokenizer"""
    from nanochat.common import get_base_dir

    return Path(get_base_dir(), "tokenizer")


def get_tokenizer() -> RustBPETokenizer:
    """The tokenizer of the base folder."""
    return RustBPETokenizer.from_directory(tokenizer_folder())


def count_token_bytes(tokenizer: RustBPETokenizer) -> torch.Tensor:
    """(vocab,) int32: raw bytes a token stands for, 0 for specials and unused ids. For bits per byte."""
    import torch

    counts = torch.zeros(tokenizer.get_vocab_size(), dtype=torch.int32)
    for token, rank in tokenizer.enc._mergeable_ranks.items():
        counts[rank] = len(token)
    return counts


def write_token_bytes(folder: Path, tokenizer: RustBPETokenizer) -> None:
    """Write token_bytes.pt."""
    import torch

    from nanochat.files import atomic_write

    with atomic_write(folder / TOKEN_BYTES_NAME) as file:
        torch.save(count_token_bytes(tokenizer), file)


def get_token_bytes(device: str | torch.device = "cpu") -> torch.Tensor:
    """(vocab,) int32 of the base folder's tokenizer, from token_bytes.pt. Raises FileNotFoundError, ValueError."""
    import torch

    path = tokenizer_folder() / TOKEN_BYTES_NAME
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} is missing: `get_tokenizer().save(tokenizer_folder())` writes it")
    counts = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(counts, torch.Tensor) or counts.dtype != torch.int32 or counts.ndim != 1:
        raise ValueError(f"{path} should hold one int32 number a token")
    return counts
