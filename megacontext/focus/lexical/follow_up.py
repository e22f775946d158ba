"""Further look-ups at a prompt's end: what a first one found says what to look up next.

"Where is the coin?" finds "The coin is in the box."; the new word of that sentence, box, finds "The box is with Bill.";
then Bill. Only the sentence that was found asks on, with its words that nobody asked for yet, and only rare ones: so
where nothing stands behind a fact, nothing comes. Steps of retrieval between steps of reading are the idea of IRCoT
(arXiv 2212.10509, section 3); here no model reads between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from megacontext.focus.lexical.votes import weigh
from megacontext.focus.lexical_store import LexicalStore, Matches
from megacontext.models.vocabulary import Vocabulary

RARE = 8  # matches of what still says where to look
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
        known = self.vocabulary.fold(list(asked))
        matches, seen = self._look_up(known), set(found)
        while found:
            place = self._best_place(matches, found)
            if place is None:
                return
            sentence = self._sentence(place)
            words = list(self.tokens(sentence.start, sentence.stop))
            folded = self.vocabulary.fold(words)
            new = self.vocabulary.words[np.minimum(words, len(self.vocabulary.words) - 1)] & ~np.isin(folded, known)
            matches = _only(self._look_up(folded), new, sentence)
            found = self._blocks(matches, seen)
            seen.update(found)
            known = np.concatenate([known, folded])
            if found:
                yield found

    def _look_up(self, ids: np.ndarray) -> Matches:
        """Matches before the prompt."""
        matches = self.store.look_up(ids)
        self.weighed += len(matches.places)
        return matches.where(matches.places < self.before)

    def _best_place(self, matches: Matches, blocks: Sequence[int]) -> int | None:
        """Where in these blocks the match is that tells most, the last of several."""
        matches = matches.where(np.isin(matches.places // self.block, blocks))
        if not len(matches.places):
            return None
        weights = self._weights(matches)
        return int(matches.places[weights >= weights.max()].max())

    def _weights(self, matches: Matches) -> np.ndarray:
        return weigh(self.store.length, matches.counts, matches.grams)

    def _sentence(self, place: int) -> range:
        """The sentence or line around a position, without what ends it."""
        start, stop = max(place - REACH, 0), min(place + REACH, self.before)
        ids = np.minimum(self.tokens(start, stop), len(self.vocabulary.ends) - 1)
        ends = start + np.flatnonzero(self.vocabulary.ends[ids])
        earlier, later = ends[ends < place], ends[ends > place]
        return range(int(earlier[-1]) + 1 if len(earlier) else start, int(later[0]) if len(later) else stop)

    def _blocks(self, matches: Matches, seen: set[int]) -> list[int]:
        """The blocks of what was found, and of what follows on it, but those that have been `seen`; the best first."""
        weights = self._weights(matches)
        votes: dict[int, float] = {}
        for place, weight in zip(matches.places.tolist(), weights.tolist(), strict=True):
            for block in {place // self.block, (place + 1) // self.block} - seen:
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
