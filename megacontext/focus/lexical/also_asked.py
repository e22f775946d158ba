"""What else a question asks for: what the block that answers it best leaves open.

"What are the words for the blue box and the red door?" finds the block of the blue box; then come all others that have
"the word for the", and the red door's is one of them. But the best block has these words, too: it covers them. What is
left of the others' votes tells who has the rest. Choosing by what is not covered yet is maximal marginal relevance
(Carbonell and Goldstein 1998) over words instead of whole passages.
"""

from __future__ import annotations

import numpy as np

from megacontext.focus.lexical.votes import weigh

OPEN = 12.0  # what must be left, in votes of a word that stands at one place: a phrase of two is 6, of three 20
HALF = 0.5  # of a block's votes that are left, that its neighbour must have: what was told lies in both
MOST = 3  # further parts of a question


def also_asked(rows: np.ndarray, blocks: np.ndarray, votes: np.ndarray, known: np.ndarray, length: int) -> list[int]:
    """Blocks beside the best one, in the order of what they add.

    rows, blocks, votes: (m,) what each token of the question gives each block, every pair once. known: the best block,
    or both that what was told lies across. length: of history.
    """
    found: list[int] = []
    least = OPEN * float(weigh(length, np.ones(1), np.ones(1))[0])
    numbers, at = np.unique(blocks, return_inverse=True)
    covered, open_ = np.zeros(rows.max(initial=-1) + 1), ~np.isin(numbers, known)
    for _ in range(MOST):
        theirs = ~open_[at]
        np.maximum.at(covered, rows[theirs], votes[theirs])
        left = np.bincount(at, np.maximum(votes - covered[rows], 0.0), len(numbers)) * open_
        if left.max(initial=0.0) < least:
            break
        first = left.argmax()
        both = np.flatnonzero((np.abs(numbers - numbers[first]) <= 1) & (left >= HALF * left[first]))  # across an edge
        found += numbers[both[np.argsort(-left[both], kind="stable")]].tolist()
        open_[both] = False
    return found
