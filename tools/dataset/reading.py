"""From texts to tokens: the documents of a split into its spool, one piece at a time."""

from __future__ import annotations

from collections.abc import Sequence

from tools.dataset.documents import Advance, Encode, Source, encode_text, read_text
from tools.dataset.examples import whole_blocks
from tools.dataset.spool import TokenSpool
from tools.dataset.work import Clock


def read_documents(
    spool: TokenSpool, sources: Sequence[Source], encode: Encode, *, block: int, limit: int | None, advance: Advance
) -> None:
    """All documents that are not in `spool` yet, each cut to whole blocks, until all hold `limit` tokens together.

    limit: in whole blocks; None for no limit. Raises ConfigError for a text that cannot be read.
    """
    clock = Clock()
    for source in sources[len(spool.lengths) :]:
        room = None if limit is None else limit - spool.tokens
        if room == 0:
            break
        tokens = _read(spool, source, encode, room, advance)
        spool.end_document(whole_blocks(tokens, block))
        if clock.rings():
            spool.sync()
    spool.sync()


def _read(spool: TokenSpool, source: Source, encode: Encode, room: int | None, advance: Advance) -> int:
    """The ids of one document, as far as there is room. Returns how many of them count."""
    tokens = 0
    for ids in encode_text(read_text(source, advance), encode):
        spool.append(ids)
        tokens += len(ids)
        if room is not None and tokens >= room:
            return room
    return tokens
