"""Stores with a long history: the beginning and the end are read by the model, what is between them is made up.

Made up means: real text in the log, and for each block a page, a mean and index entries of the right shape, written by
the same code that writes real ones; only the model's passes are left out, and a block's page is one of those of the
beginning. What opening and going on costs does not depend on what is in a page.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.config import MemoryConfig
from megacontext.errors import ConfigError
from megacontext.tree.memory_files import PAGES_NAME
from tools.storing.place import Open, Place, opened

if TYPE_CHECKING:
    from megacontext.arena import Page
    from megacontext.cache import ContextCache
    from megacontext.models.base import LoadedModel

PIECE = 256  # tokens of a frame in the log, as a document's reading writes them
TURN = 2048  # tokens of a made-up turn
LAST = 256  # newest tokens, read by the model
BANK = 128  # pages that are used again

Note = Callable[[str], None]


def text_ids(loaded: LoadedModel, texts: Sequence[Path], sample: Path) -> Iterator[int]:
    """Endless ids of real text. Raises MissingAsset, ConfigError."""
    from megacontext.evaluation.corpus import load_corpus
    from megacontext.evaluation.tasks.base import Library

    return Library(loaded.text, load_corpus(sample, texts).documents).stream()


def begin(place: Place, loaded: LoadedModel, ids: Iterator[int], tokens: int, note: Note) -> None:
    """A session of about `tokens` tokens, whole blocks, all of them read by the model. One that is there is kept."""
    if place.folder.exists():
        return
    with opened(place, loaded) as there:
        whole = tokens // _cache(there).config.block * _cache(there).config.block
        _read(there, loaded, list(islice(_turns(loaded, ids), whole)), note)
        there.files.keep(there.conversation.cache)


def fill(place: Place, begun: Place, loaded: LoadedModel, ids: Iterator[int], tokens: int, note: Note) -> int:
    """Go on from a copy of the session `begun` to `tokens` tokens of the same ids. Returns how many are made up.

    Raises ConfigError if there is such a session already, StoreError if the disk refuses.
    """
    if place.folder.exists():
        raise ConfigError(f"{place.folder} is there already: remove it, or name another --folder")
    shutil.copytree(begun.folder, place.folder)
    with opened(place, loaded) as there:
        there.conversation.resume()
        cache, start = _cache(there), len(there.session)
        ids = islice(_turns(loaded, ids), start, None)
        made_up = max(tokens - LAST - start, 0) // cache.config.block * cache.config.block
        if made_up:
            _make_up(there, cache, ids, made_up, note)
        _read(there, loaded, list(islice(ids, tokens - len(there.session))), note)
        there.files.keep(cache)
    return made_up


def _turns(loaded: LoadedModel, ids: Iterator[int]) -> Iterator[int]:
    """The ids as users' turns of a chat, one after the other."""
    from megacontext.turns import user_frame

    frame = user_frame(loaded.text, reply=False)
    while words := list(islice(ids, TURN - len(frame.before) - len(frame.after))):
        yield from (*frame.before, *words, *frame.after)


def _cache(there: Open) -> ContextCache:
    from megacontext.cache import ContextCache

    assert isinstance(there.conversation.cache, ContextCache)
    return there.conversation.cache


def _read(there: Open, loaded: LoadedModel, ids: Sequence[int], note: Note) -> None:
    """Real reading, as of a document: the log first, then the model."""
    from nanochat.engine import prefill

    session, start = there.session, len(there.session)
    for at in range(0, len(ids), PIECE):
        session.append(list(ids[at : at + PIECE]))
        prefill(loaded.model, there.conversation.cache, list(ids[at : at + PIECE]), answer=False)
        if at and at % (16 * PIECE) == 0:
            note(f"{start + at:,} tokens read")
    session.add_turn("document", start, len(session))
    session.sync()


def _make_up(there: Open, cache: ContextCache, ids: Iterator[int], tokens: int, note: Note) -> None:
    """Whole blocks of history without the model's passes; then the view follows, as after any plan."""
    block, session = cache.config.block, there.session
    assert cache.context.tail == 0
    bank = [cache.tree.page(cache.grid.page(n)) for n in range(min(BANK, cache.context.sealed // block))]
    for done in range(0, tokens, TURN):
        turn = list(islice(ids, min(TURN, tokens - done)))
        start = len(session)
        for at in range(0, len(turn), PIECE):
            session.append(turn[at : at + PIECE])
            session.log.flush()
        session.add_turn("document", start, len(session))
        session.sync()
        for at in range(0, len(turn), block):
            _seal(cache, turn[at : at + block], bank)
        if done and done % (64 * TURN) == 0:
            note(f"{len(session):,} tokens, {done:,} of them made up")
    recent = cache.allocator.recent_start(cache.context)
    cache.view.follow(cache.context, cache.tree, recent)
    cache.view.renumber(cache.context, recent)


def _seal(cache: ContextCache, ids: Sequence[int], bank: Sequence[Page]) -> None:
    """What ContextCache does with a block that is full, and with a budget that is."""
    number = cache.context.sealed // cache.config.block
    page = bank[number % len(bank)]
    cache.tree.append(ids)
    cache.length += len(ids)
    cache.scorer.observe(ids)
    cache.context = cache.context.grow(len(ids)).seal(cache.tick)
    cache.tree.seal(page)
    cache.scorer.seal(number, page)
    if cache.context.free < cache.config.read_chunk:
        cache.context = cache.allocator.plan(cache.context, {}, cache.tick, reserve=cache.config.read_chunk).context
        cache.tick += 1


def with_pages_as(place: Place, loaded: LoadedModel, dtype: str) -> Place:
    """A copy of the session whose pages are in another format, written by the code that writes any."""
    from megacontext.tree.page_codec import PageCodec, PageShape
    from megacontext.tree.page_file import PageFile

    other = replace(place, name=f"{place.name}-{dtype}", dtype=dtype)
    shutil.copytree(place.folder, other.folder)
    (other.folder / PAGES_NAME).unlink()
    spec = loaded.model.spec
    shape = PageShape(len(spec.memory_layers), spec.kv_heads, MemoryConfig().block, spec.head_dim)
    old, new = (PageCodec(shape, spec.dtype, kind) for kind in (place.dtype, dtype))  # type: ignore[arg-type]
    source = PageFile.open(place.folder / PAGES_NAME, old, fingerprint=spec.fingerprint, writable=False)
    target = PageFile.open(other.folder / PAGES_NAME, new, fingerprint=spec.fingerprint)
    for number in range(source.frames.places):
        if (page := source.read(number)) is not None:
            target.write(number, page, source.frames.made_of(number))
    source.frames.close()
    target.frames.close()
    return other
