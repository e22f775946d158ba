"""Further look-ups at a prompt's end: what a first one found says what to look up next.

"Where is the coin?" finds "The coin is in the box."; the new word of that sentence, box, finds "The box is with Bill.";
then Bill. Only the sentence that was found asks on, with its words that nobody asked for yet, and only rare ones: so
where nothing stands behind a fact, nothing comes. Steps of retrieval between steps of reading are the idea of IRCoT
(arXiv 2212.10509, section 3); here no model reads between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from megacontext.focus.lexical.votes import weigh
from megacontext.focus.lexical_store import LexicalStore, Matches
from megacontext.models.vocabulary import Vocabulary

RARE = 8  # matches of what still says where to look, the one that asks among them
TRIES = 3  # sentences that are looked at, until one says more than was asked: the first may be an earlier question
REACH = 24  # tokens before and behind a match that its sentence may have
NEARLY = 0.9  # of the best block's votes: found as well
WIDE = 3  # blocks that one look-up finds at most


class FollowUp:
    """store: an index of folded ids. tokens(start, stop): history as it was said. before: where the prompt begins."""

    def __init__(
        self,
        store: LexicalStore,
        vocabulary: Vocabulary,
        tokens: Callable[[int, int], Sequence[int]],
        before: int,
        block: int,
    ) -> None:
        self.store, self.vocabulary, self.tokens, self.before, self.block = store, vocabulary, tokens, before, block
        self.weighed = 0  # matches so far

    def steps(self, asked: Sequence[int], found: Sequence[int]) -> Iterator[list[int]]:
        """What each further look-up finds: blocks, best first. asked: the prompt's words. found: by the first one."""
        known, seen = self.vocabulary.fold(asked), set(found)
        matches = self._look_up(known) if found else None
        while found and matches is not None:
            asking = self._asking(matches, found, known)
            if asking is None:
                return
            sentence, folded, new = asking
            matches = _only(self._look_up(folded), new, sentence)
            found = self._blocks(matches, seen)
            seen.update(found)
            known = np.concatenate([known, folded])
            if found:
                yield found

    def _asking(
        self, matches: Matches, found: Sequence[int], known: np.ndarray
    ) -> tuple[range, np.ndarray, np.ndarray] | None:
        """The sentence that says more than is known, its words (n,) and which of them (n,) ask on; None: none does."""
        for sentence in islice(self._sentences(matches, found), TRIES):
            ids = np.asarray(self.tokens(sentence.start, sentence.stop), np.int64)
            folded = self.vocabulary.fold(ids)
            new = ~np.isin(folded, known)
            if new.any():
                return sentence, folded, new & self.vocabulary.is_word(ids) & self.vocabulary.is_whole(ids)
        return None

    def _look_up(self, ids: np.ndarray) -> Matches:
        """Matches before the prompt."""
        matches = self.store.look_up(ids)
        self.weighed += len(matches.places)
        return matches.where(matches.places < self.before)

    def _sentences(self, matches: Matches, blocks: Sequence[int]) -> Iterator[range]:
        """Those of these blocks that something matched, the match that tells most first, the later of equals.

        A vote goes to the block of the token after the match, so a match may stand on the last token before it.
        """
        here, after = matches.places // self.block, (matches.places + 1) // self.block
        matches = matches.where(np.isin(here, blocks) | np.isin(after, blocks))
        order = np.lexsort((-matches.places, -self._weights(matches)))
        told: set[range] = set()
        for place in matches.places[order].tolist():
            sentence = self._sentence(place)
            if sentence not in told:
                told.add(sentence)
                yield sentence

    def _weights(self, matches: Matches) -> np.ndarray:
        return weigh(self.store.length, matches.counts, matches.grams)

    def _sentence(self, place: int) -> range:
        """The sentence or line around a position, or that ends there; without what ends it."""
        start, stop = max(place - REACH, 0), min(place + REACH, self.before)
        ids = np.asarray(self.tokens(start, stop), np.int64)
        ends = start + np.flatnonzero(self.vocabulary.is_end(ids))
        earlier, later = ends[ends < place], ends[ends >= place]
        return range(int(earlier[-1]) + 1 if len(earlier) else start, int(later[0]) if len(later) else stop)

    def _blocks(self, matches: Matches, seen: set[int]) -> list[int]:
        """The blocks of what was found, and of what follows on it, but those that have been `seen`; the best first."""
        weights = self._weights(matches)
        votes: dict[int, float] = {}
        for place, weight in zip(matches.places.tolist(), weights.tolist(), strict=True):
            for block in {place // self.block, min(place + 1, self.before - 1) // self.block} - seen:
                votes[block] = votes.get(block, 0.0) + weight
        best = sorted(votes, key=lambda block: (-votes[block], -block))[:WIDE]
        return [block for block in best if votes[block] >= NEARLY * votes[best[0]]]


def _only(matches: Matches, new: np.ndarray, sentence: range) -> Matches:
    """Those of n-grams of new words alone, rare ones, elsewhere than in their own sentence. new: (n,) of its tokens."""
    ends = np.arange(1, len(new) + 1)
    run = ends - np.maximum.accumulate(np.where(new, 0, ends))  # new tokens in a row, up to each one
    places = matches.places
    elsewhere = (places < sentence.start) | (places >= sentence.stop)
    return matches.where((matches.grams <= run[matches.rows]) & (matches.counts <= RARE) & elsewhere)
