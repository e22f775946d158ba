"""Texts as documents: which files, what is in them, and their tokens a piece at a time.

A document is a file. It is never held whole: its text is cut where the tokenizer is seen to give the same ids with and
without the cut, so that the pieces' tokens are the tokens of the whole. A tokenizer that sees a difference at every
place that is tried gets the whole text.

Knows nothing about blocks, examples or models: a tokenizer is a function from text to ids.
"""

from __future__ import annotations

import codecs
import glob
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from megacontext.errors import ConfigError, MegaContextError, MissingAsset

Encode = Callable[[str], list[int]]
Advance = Callable[[int], None]  # told of bytes that are done

CHUNK = 1 << 18  # bytes of one read
PIECE = 1 << 18  # characters from which on a cut is looked for
PROBE = 2048  # characters on either side of a cut that are encoded to see what the cut changes
BYTE_ORDER_MARK = "\ufeff"
TRIES = 32  # places that are tried before more text is read
# After a lone newline, or before a lone space: tokenizers that split words first never join what is on both sides.
PLACE = re.compile(r"(?<=\S\n)(?=\w)|(?<=\w)(?= \w)")


class Source(NamedTuple):
    """A file as it was when it was hashed. size: in bytes; changed: time of the last change, in nanoseconds."""

    path: Path
    sha256: str
    size: int
    changed: int


def find_files(base: Path, pattern: str, most: int | None) -> list[Path]:
    """The files that `pattern` names from folder `base`, sorted by name, at most `most`.

    Raises MissingAsset if there is none.
    """
    wanted = str(Path(pattern).expanduser())
    names = [wanted] if (base / wanted).is_file() else glob.glob(wanted, root_dir=base, recursive=True)
    paths = [base / name for name in sorted({Path(name).as_posix() for name in names})]
    files = [path for path in paths if path.is_file()]
    if not files:
        where = (base / wanted).as_posix()
        found = f"only folders match {where}; add /*.txt or /**/*.txt" if paths else f"no files match {where}"
        raise MissingAsset(
            f"{found}. `python tools/bootstrap_env.py` brings the sample corpus; other texts are for you to put there"
        )
    return files[:most]


def total_bytes(files: Sequence[Path]) -> int:
    """Raises ConfigError for a file that cannot be read."""
    return sum(_state(path)[0] for path in files)


def hash_files(files: Sequence[Path], advance: Advance) -> list[Source]:
    """Read every byte once. Raises ConfigError for a file that cannot be read."""
    return [_hashed(path, advance) for path in files]


def _hashed(path: Path, advance: Advance) -> Source:
    digest, state = hashlib.sha256(), _state(path)
    for data in _read(path, advance):
        digest.update(data)
    return Source(path, digest.hexdigest(), *state)


def _state(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change."""
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return found.st_size, found.st_mtime_ns


def _read(path: Path, advance: Advance) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while data := file.read(CHUNK):
                yield data
                advance(len(data))
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path}: cannot be read ({error.strerror}); check its permissions")


def read_text(source: Source, advance: Advance) -> Iterator[str]:
    """The text of a file in parts: UTF-8, every kind of newline as one, without a byte order mark.

    Raises ConfigError if it is not UTF-8, MegaContextError if it has changed since it was hashed.
    """
    decoder, newlines = codecs.getincrementaldecoder("utf-8")(), io.IncrementalNewlineDecoder(None, translate=True)
    done, begun = 0, False
    for data in chain(_read(source.path, advance), (b"",)):
        held = len(decoder.getstate()[0])
        try:
            text = newlines.decode(decoder.decode(data, final=not data), final=not data)
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{source.path}: not UTF-8 text (byte {done - held + error.start}); "
                "convert it, or keep it out of dataset.splits.*.source"
            ) from None
        yield text if begun else text.removeprefix(BYTE_ORDER_MARK)
        done, begun = done + len(data), begun or bool(text)
    if _state(source.path) != (source.size, source.changed):
        raise MegaContextError(f"{source.path} changed while it was read; run the command again")


def encode_text(parts: Iterable[str], encode: Encode) -> Iterator[list[int]]:
    """The ids of a text that comes in `parts`, joined they are those of the whole text."""
    held = ""
    for part in parts:
        held += part
        while len(held) >= PIECE and (cut := _cut(held, encode)):
            yield encode(held[:cut])
            held = held[cut:]
    if held:
        yield encode(held)


def _cut(text: str, encode: Encode) -> int:
    """A place in `text` where a cut changes nothing; 0 if none is seen."""
    places = PLACE.finditer(text, len(text) // 2, len(text) - PROBE)
    return next((place.end() for place in islice(places, TRIES) if _changes_nothing(text, place.end(), encode)), 0)


def _changes_nothing(text: str, cut: int, encode: Encode) -> bool:
    left, right = text[max(cut - PROBE, 0) : cut], text[cut : cut + PROBE]
    return encode(left + right) == encode(left) + encode(right)
