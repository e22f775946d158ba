"""The tokenizer that a GGUF file carries (`tokenizer.ggml.*`), rebuilt as a Hugging Face `tokenizers.Tokenizer`.

`tokenizer.ggml.pre` names how text is cut before merging; the patterns below are those of llama.cpp's
`llama-vocab.cpp`, in the form in which the original tokenizers write them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from megacontext.errors import ConfigError
from megacontext.models.base import ModelFileError
from megacontext.models.text import not_a_panic

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

CONTROL, UNKNOWN, USER_DEFINED, BYTE = 3, 2, 4, 6  # tokenizer.ggml.token_type
LONGEST_PIECE = 512  # characters of a SentencePiece token: real ones have some dozens, and all ways to cut it are tried
SENTENCEPIECE: dict[str, Any] = {"fuse_unk": True, "byte_fallback": True}
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "gpt-2": (GPT2,),
    "llama-bpe": (LLAMA3,),
    "llama3": (LLAMA3,),
    "llama-v3": (LLAMA3,),
    "qwen2": (LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),),
    "smollm": (r"\p{N}", GPT2),
    "default": (
        r"[\p{P}\$\+<=>\^~\|]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
        r"\p{N}+",
        r"[0-9][0-9][0-9]",
    ),
}


def build_tokenizer(metadata: Mapping[str, Any], path: object) -> Tokenizer:
    """metadata: the file's. Raises ConfigError for a kind that is not supported, ModelFileError for a damaged one."""
    _check(metadata, path)
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(metadata, path)
    elif kind == "llama":
        tokenizer = _sentencepiece(metadata, path)
    else:
        raise ConfigError(f"{path}: tokenizer model {kind!r} is not supported; 'gpt2' and 'llama' are")
    _add_specials(tokenizer, metadata, path)
    return tokenizer


def _check(metadata: Mapping[str, Any], path: object) -> None:
    """Raises ModelFileError unless types are numbers, named tokens are tokens, and a chat template is text."""
    count = len(_strings(metadata, "tokens", path))
    types = metadata.get("tokenizer.ggml.token_type", [])
    if not isinstance(types, list) or len(types) > count or not all(type(kind) is int for kind in types):
        raise ModelFileError(f"{path}: tokenizer.ggml.token_type must hold one number for each of {count} tokens")
    if not isinstance(metadata.get("tokenizer.chat_template", ""), str):
        raise ModelFileError(f"{path}: tokenizer.chat_template must be text")
    for key, value in metadata.items():
        named = key.startswith("tokenizer.ggml.") and key.endswith("_token_id")
        if named and (type(value) is not int or not 0 <= value < count):
            raise ModelFileError(f"{path}: {key} is {value!r}; it must be one of the {count} tokens")


def special_ids(metadata: Mapping[str, Any]) -> set[int]:
    """Ids that the file marks as control or unknown tokens, and those it names as beginning, end or padding."""
    types = metadata.get("tokenizer.ggml.token_type", [])
    named = {v for k, v in metadata.items() if k.startswith("tokenizer.ggml.") and k.endswith("_token_id")}
    return {i for i, kind in enumerate(types) if kind in (CONTROL, UNKNOWN)} | named


def stop_ids(metadata: Mapping[str, Any]) -> set[int]:
    """Ids that the file names as the end of a text, a turn or a message, or as the beginning of one."""
    keys = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom", "bos"))
    return {metadata[key] for key in keys if key in metadata}


def begin_ids(metadata: Mapping[str, Any]) -> list[int]:
    """What starts a text: the beginning-of-text id if the file asks for it (SentencePiece files do unless they say)."""
    wanted = metadata.get("tokenizer.ggml.add_bos_token", metadata.get("tokenizer.ggml.model") == "llama")
    begin = metadata.get("tokenizer.ggml.bos_token_id")
    return [begin] if wanted and begin is not None else []


def template_variables(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """bos_token, eos_token and so on: what a chat template may name."""
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    names = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for key, name in names.items()}
    return {name: tokens[i] for name, i in ids.items() if i is not None}


def _byte_level(metadata: Mapping[str, Any], path: object) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models

    merges = [_pair(line) for line in _strings(metadata, "merges", path)]
    vocabulary = {token: i for i, token in enumerate(_strings(metadata, "tokens", path))}
    pre = str(metadata.get("tokenizer.ggml.pre", "default"))
    ignore_merges = PATTERNS.get(pre) == (LLAMA3,)  # Llama 3: a word that is in the vocabulary is taken whole
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges))
    except BaseException as error:  # the library raises bare Exception, and panics of its own
        if not_a_panic(error):
            raise
        raise ModelFileError(f"{path}: the tokenizer's merges do not fit its tokens ({error})") from None
    tokenizer.pre_tokenizer = _cut(pre, path)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pair(line: str) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    return left, right


def _cut(pre: str, path: object) -> PreTokenizer:
    """Text -> words, as the named family does it."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    if pre not in PATTERNS:
        raise ConfigError(f"{path}: pre-tokenizer {pre!r} is not known; known are {', '.join(sorted(PATTERNS))}")
    cuts = [Split(Regex(pattern), behavior="isolated") for pattern in PATTERNS[pre]]
    return Sequence([*cuts, ByteLevel(add_prefix_space=False, use_regex=False)])


def _sentencepiece(metadata: Mapping[str, Any], path: object) -> Tokenizer:
    """Llama 1 and 2: SentencePiece BPE. Its merges are not in the file, but follow from the scores of the tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens = _strings(metadata, "tokens", path)
    scores = metadata.get("tokenizer.ggml.scores")
    if not tokens or not isinstance(scores, list) or [type(score) for score in scores] != [float] * len(tokens):
        raise ModelFileError(f"{path}: tokenizer.ggml.scores must hold one score for each of {len(tokens)} tokens")
    if (longest := max(map(len, tokens))) > LONGEST_PIECE:
        raise ModelFileError(f"{path}: a token of {longest:,} characters; {LONGEST_PIECE} are possible")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    unknown = tokens[metadata.get("tokenizer.ggml.unknown_token_id", 0)]
    merges = _merges_of_scores(vocabulary, scores)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, **SENTENCEPIECE))
    prefix = [normalizers.Prepend("▁")] if metadata.get("tokenizer.ggml.add_space_prefix", True) else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _merges_of_scores(vocabulary: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to make a token of two others, the best-scored token first (as transformers converts these files)."""
    merges = []
    for token in vocabulary:
        pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
        known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges += [(scores[vocabulary[token]], pair) for pair in known]
    merges.sort(key=lambda entry: entry[0], reverse=True)
    return [pair for _, pair in merges]


def _add_specials(tokenizer: Tokenizer, metadata: Mapping[str, Any], path: object) -> None:
    from tokenizers import AddedToken

    tokens = _strings(metadata, "tokens", path)
    wanted = special_ids(metadata)
    tokenizer.add_special_tokens([AddedToken(tokens[i], special=True, normalized=False) for i in sorted(wanted)])
    types = metadata.get("tokenizer.ggml.token_type", [])
    plain = [tokens[i] for i, kind in enumerate(types) if kind == USER_DEFINED and i not in wanted]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])


def _strings(metadata: Mapping[str, Any], key: str, path: object) -> list[str]:
    found = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ModelFileError(f"{path}: tokenizer.ggml.{key} must be a list of strings")
    return found
