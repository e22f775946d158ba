"""Learn byte-level BPE merges with Hugging Face `tokenizers`, and hand them over as tiktoken ranks.

Specials take no part in training: a trainer that knows them gives them the first ids and then also finds them in plain
text.
"""

from __future__ import annotations

from collections.abc import Iterable

from nanochat.tokenizer_files import unicode_to_byte

BYTES = 256


def train_ranks(texts: Iterable[str], size: int, pattern: str) -> dict[bytes, int]:
    """Ranks of `size` tokens: byte b has rank b, merge n has rank 256 + n. A short text yields fewer.

    Raises ValueError if `size` cannot hold the 256 bytes.
    """
    if size < BYTES:
        raise ValueError(f"a byte-level vocabulary needs room for {BYTES} bytes, got {size}")
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learner.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=0, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(texts, trainer=trainer)
    return _ranks(learner.get_vocab())


def _ranks(vocabulary: dict[str, int]) -> dict[bytes, int]:
    """The learner numbers bytes in the order of their stand-ins; tiktoken's custom is byte b = rank b."""
    byte_of = unicode_to_byte()
    tokens = {bytes(byte_of[c] for c in token): number for token, number in vocabulary.items()}
    merges = sorted((token for token in tokens if len(token) > 1), key=tokens.__getitem__)
    return {bytes([b]): b for b in range(BYTES)} | {token: BYTES + n for n, token in enumerate(merges)}
