"""What a decode demo reads before it writes: the configured prompt behind the beginning of a text, or the user's own.

Knows nothing of models and memory; ids are made by the model's own text side.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from megacontext.errors import ConfigError, MissingAsset
from tools.legacy.models import BOOTSTRAP

if TYPE_CHECKING:
    from megacontext.models.text import TextModel
    from tools.legacy.config import CorpusConfig

BREAK = "\n\n"  # between the text and the prompt
LETTERS = 8  # of a text that are encoded for each token that is wanted; doubled until there are enough


class Prompt(NamedTuple):
    """ids: of everything, in order. words: where the prompt's own ids stand, [start, stop). from_corpus: ids of it."""

    ids: list[int]
    words: tuple[int, int]
    from_corpus: int = 0


def own_prompt(text: TextModel, words: str) -> Prompt:
    """Exactly `words`, but for bytes of a command line that are no UTF-8. Raises ConfigError if that is nothing."""
    return _prompt(text, [], words.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def configured_prompt(text: TextModel, words: str, demo: CorpusConfig) -> Prompt:
    """The beginning of the corpus, then `words`. Raises ConfigError or MissingAsset."""
    if not demo.corpus_tokens:
        return _prompt(text, [], words)
    return _prompt(text, beginning(text, Path(demo.corpus), demo.corpus_tokens), words)


def read_prompt(path: Path) -> str:
    """A file's text; bytes that are no UTF-8 become U+FFFD. Raises ConfigError."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise ConfigError(f"--prompt-file {path}: cannot be read ({error.strerror}); name a text file") from error


def beginning(text: TextModel, path: Path, tokens: int) -> list[int]:
    """The first `tokens` ids of a text, or all if there are fewer. Raises MissingAsset, or ConfigError."""
    try:
        letters = path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError as error:
        raise MissingAsset(
            f"no text at {path}; `{BOOTSTRAP} --only corpus` makes the sample corpus. "
            "demo.corpus names another text, demo.corpus_tokens of 0 does without, and so does --prompt TEXT."
        ) from error
    except OSError as error:
        raise ConfigError(f"demo.corpus {path}: cannot be read ({error.strerror}); name a text file") from error
    size = LETTERS * tokens
    while len(ids := text.encode(letters[:size])) <= tokens and size < len(letters):
        size *= 2
    return ids[:tokens]


def _prompt(text: TextModel, corpus: list[int], words: str) -> Prompt:
    own, begin = text.encode(words), getattr(text, "begin", ())
    before = [*begin, *corpus, *(text.encode(BREAK) if corpus else [])]
    ids = before + own
    if not corpus and not own:
        raise ConfigError("the prompt is empty: give --prompt TEXT, or set base_model.prompt or demo.corpus_tokens")
    return Prompt(ids, (len(before), len(ids)) if own else (len(begin), len(ids)), len(corpus))
