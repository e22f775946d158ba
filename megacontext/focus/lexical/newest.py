"""The newest tokens' n-grams, in a dictionary. A token finds what came before it, those of its own pass included."""

from __future__ import annotations

from megacontext.focus.lexical.records import CONTEXT

ID_BYTES = 4
KEY_BYTES, LISTED_BYTES = 140, 44  # about what an n-gram takes, and a position in a list


class Newest:
    """max_n: n-grams of up to so many tokens. most: an n-gram with more matches tells nothing."""

    def __init__(self, max_n: int, most: int) -> None:
        self.most = most
        self._prefixes = [ID_BYTES * n for n in range(1, max_n + 1)]
        self._ends: dict[bytes, int | list[int]] = {}  # by n-gram: where it ended, once or more often
        self._listed = 0

    def look_up_and_post(self, contexts: bytes, position: int) -> tuple[list[int], list[int]]:
        """Of each row how often it came before, and where, row by row, if that tells something.

        contexts: ids of ID_BYTES bytes. position: of the first one's token. Counts end at `most` + 1.
        """
        counts: list[int] = []
        places: list[int] = []
        ends = self._ends
        for at in range(0, len(contexts), CONTEXT * ID_BYTES):
            for prefix in self._prefixes:
                gram = contexts[at : at + prefix]
                found = ends.get(gram)
                if found is None:
                    ends[gram] = position
                    counts.append(0)
                elif isinstance(found, int):
                    ends[gram] = [found, position]
                    self._listed += 2
                    counts.append(1)
                    places.append(found)
                else:
                    counts.append(len(found))
                    if len(found) <= self.most:
                        places += found
                        found.append(position)
                        self._listed += 1
            position += 1
        return counts, places

    def look_up(self, contexts: bytes) -> tuple[list[int], list[int]]:
        """The same of tokens that have not come yet: they find nothing among themselves, and nothing is kept."""
        counts: list[int] = []
        places: list[int] = []
        for at in range(0, len(contexts), CONTEXT * ID_BYTES):
            for prefix in self._prefixes:
                found = self._ends.get(contexts[at : at + prefix], ())
                found = [found] if isinstance(found, int) else found
                counts.append(len(found))
                if len(found) <= self.most:
                    places += found
        return counts, places

    @property
    def nbytes(self) -> int:
        """A close estimate."""
        return len(self._ends) * KEY_BYTES + self._listed * LISTED_BYTES

    def copy(self) -> Newest:
        """An independent one with the same n-grams."""
        twin = Newest(len(self._prefixes), self.most)
        twin._ends = {gram: end if isinstance(end, int) else end.copy() for gram, end in self._ends.items()}
        twin._listed = self._listed
        return twin
