"""A tokenizer on disk: our JSON, upstream's pickle (read without running it), and the older Hugging Face JSON.

All three end in the same four facts, `TokenizerFacts`, from which tiktoken builds its encoder. Files are untrusted:
sizes are bounded, every fact is checked, and nothing that a file names is imported or called.
"""

from __future__ import annotations

import base64
import binascii
import io
import pickle
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.files import atomic_write, read_json, write_json

FORMAT = "nanochat.tokenizer"
VERSION = 1
FILE_LIMIT = 64 << 20  # bytes; the largest public tokenizers have 5 MB
ID_LIMIT = 1 << 24
JSON_NAME, PICKLE_NAME = "tokenizer.json", "tokenizer.pkl"


@dataclass(frozen=True)
class TokenizerFacts:
    """What a tokenizer is. ranks: token bytes -> id, lower ids merge first. specials: spelling -> id."""

    name: str
    pattern: str
    ranks: dict[bytes, int]
    specials: dict[str, int]

    def check(self, where: str) -> TokenizerFacts:
        """Returns itself. Raises ValueError, naming `where`, if tiktoken could not run on it."""
        _require(isinstance(self.name, str) and isinstance(self.pattern, str), where, "name or pattern is no text")
        _require(isinstance(self.ranks, dict) and isinstance(self.specials, dict), where, "ranks or specials missing")
        _require(all(isinstance(token, bytes) and token for token in self.ranks), where, "a token is not bytes")
        _require(all(isinstance(token, str) and token for token in self.specials), where, "a special is not text")
        ids = [*self.ranks.values(), *self.specials.values()]
        _require(all(type(i) is int and 0 <= i < ID_LIMIT for i in ids), where, f"an id is not in [0, {ID_LIMIT})")
        _require(len(set(ids)) == len(ids), where, "an id is used twice")
        _require(all(bytes([b]) in self.ranks for b in range(256)), where, "a single byte has no token")
        return self


def _require(holds: bool, where: str, problem: str) -> None:
    if not holds:
        raise ValueError(f"{where} is no usable tokenizer: {problem}. Train it again or get it from its source.")


def read_tokenizer(folder: Path) -> TokenizerFacts:
    """Our tokenizer.json, else upstream's tokenizer.pkl, else the older Hugging Face tokenizer.json.

    Raises FileNotFoundError if there is neither, ValueError if a file is damaged, hostile or of another kind.
    """
    json_path, pickle_path = folder / JSON_NAME, folder / PICKLE_NAME
    document = read_json(json_path, limit=FILE_LIMIT) if json_path.exists() else None
    if isinstance(document, dict) and document.get("format") == FORMAT:
        return facts_from_json(document, str(json_path))
    if pickle_path.exists():
        return read_pickle(pickle_path)
    if document is not None:
        return facts_from_hugging_face(document, str(json_path))
    raise FileNotFoundError(f"no {JSON_NAME} or {PICKLE_NAME} in {folder}: train a tokenizer or copy one there")


# Our JSON -------------------------------------------------------------------------------------------------------------


def write_tokenizer(folder: Path, facts: TokenizerFacts) -> None:
    """Write tokenizer.json: plain data, tokens in base64."""
    ranks = {base64.b64encode(token).decode("ascii"): rank for token, rank in facts.ranks.items()}
    head = {"format": FORMAT, "version": VERSION, "name": facts.name, "pattern": facts.pattern}
    write_json(folder / JSON_NAME, {**head, "special_tokens": facts.specials, "ranks": ranks}, indent=0)


def facts_from_json(document: dict[str, Any], where: str) -> TokenizerFacts:
    """Our own schema."""
    version, ranks = document.get("version"), document.get("ranks")
    _require(version == VERSION, where, f"version {version!r}, this program reads {VERSION}")
    _require(isinstance(ranks, dict), where, "ranks are missing")
    try:
        decoded = {base64.b64decode(token, validate=True): rank for token, rank in (ranks or {}).items()}
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{where}: a token is not base64: {error}") from error
    _require(len(decoded) == len(ranks or {}), where, "a token stands there twice")
    missing = {"name", "pattern", "special_tokens"} - document.keys()
    _require(not missing, where, f"{', '.join(sorted(missing))} missing")
    return TokenizerFacts(document["name"], document["pattern"], decoded, document["special_tokens"]).check(where)


# Upstream's pickle ----------------------------------------------------------------------------------------------------

# What pickling a tiktoken.Encoding takes (protocols 4 and 5), and nothing that calls, imports by another way, or
# allocates ahead of its data.
_ADMITTED = {
    *("PROTO", "FRAME", "STACK_GLOBAL", "NEWOBJ", "BUILD", "STOP"),
    *("MARK", "MEMOIZE", "BINGET", "LONG_BINGET", "EMPTY_TUPLE", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BININT", "BININT1", "BININT2"),
}
_ENCODING = ("tiktoken.core", "Encoding")


class _EncodingState:
    """Stands in for tiktoken.Encoding while unpickling: keeps the state, does nothing."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != _ENCODING:
            raise pickle.UnpicklingError(f"it wants {module}.{name}; only {'.'.join(_ENCODING)} is admitted")
        return _EncodingState


def read_pickle(path: Path) -> TokenizerFacts:
    """Read a pickled tiktoken.Encoding without importing or calling anything. Raises ValueError for anything else."""
    if path.stat().st_size > FILE_LIMIT:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; at most {FILE_LIMIT} are read")
    data = path.read_bytes()
    try:
        _check_opcodes(data)
        loaded = _Unpickler(io.BytesIO(data)).load()
    except Exception as error:  # a damaged pickle raises nearly any type
        raise ValueError(f"{path} was refused, it is not a plain tiktoken encoding: {error}") from error
    return _facts_from_state(getattr(loaded, "state", None), str(path))


def _check_opcodes(data: bytes) -> None:
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name not in _ADMITTED:
            raise pickle.UnpicklingError(f"instruction {opcode.name} {argument or ''} at byte {position}")


def _facts_from_state(state: Any, where: str) -> TokenizerFacts:
    keys = {"name", "pat_str", "mergeable_ranks", "special_tokens"}
    _require(isinstance(state, dict) and state.keys() == keys, where, "it does not hold a tiktoken encoding's fields")
    facts = TokenizerFacts(state["name"], state["pat_str"], state["mergeable_ranks"], state["special_tokens"])
    return facts.check(where)


def write_pickle(folder: Path, encoding: Any) -> None:
    """Write tokenizer.pkl for upstream: a pickled tiktoken.Encoding, protocol 4 (Python 3.8 and later)."""
    with atomic_write(folder / PICKLE_NAME) as file:
        pickle.dump(encoding, file, protocol=4)


# The older Hugging Face JSON ------------------------------------------------------------------------------------------


def facts_from_hugging_face(document: Any, where: str) -> TokenizerFacts:
    """Upstream's HuggingFaceTokenizer (until July 2026): byte-level BPE with the specials first, at ids 0 to 8.

    tiktoken merges by the rank of the result, Hugging Face by the order of the merge list: they agree when results
    come in the order of their ids, which is how the trainer numbers them, and which is checked.
    """
    try:
        model = document["model"]
        specials = {token["content"]: token["id"] for token in document["added_tokens"]}
        pattern = document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        results = [model["vocab"][left + right] for left, right in merges]
        byte_of = unicode_to_byte()
        ranks = {
            bytes(byte_of[c] for c in token): rank for token, rank in model["vocab"].items() if token not in specials
        }
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(f"{where} is neither our format nor a byte-level BPE of `tokenizers`: {error!r}") from error
    _require(results == sorted(set(results)), where, "merges are not in the order of their ids")
    return TokenizerFacts("huggingface", pattern, ranks, specials).check(where)


def unicode_to_byte() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: printable Latin-1 stands for itself, the rest for U+0100 and up."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
