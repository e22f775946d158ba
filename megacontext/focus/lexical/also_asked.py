"""What else a question asks for: what the block that answers it best leaves open.

"What are the words for the blue box and the red door?" finds the block of the blue box; then come all others that have
"the word for the", and the red door's is one of them. But the best block has these words, too: it covers them. What is
left of the others' votes tells who has the rest. Choosing by what is not covered yet is maximal marginal relevance
(Carbonell and Goldstein 1998) over words instead of whole passages.
"""

from __future__ import annotations

import numpy as np

from megacontext.focus.lexical.votes import weigh

OPEN = 12.0  # what must be left, in votes of a word that stands at one place: a phrase of three words is 1 + 4 + 9
HALF = 0.5  # of a block's votes that are left, that its neighbour must have: what was told lies in both
MOST = 3  # further parts of a question


def also_asked(rows: np.ndarray, blocks: np.ndarray, votes: np.ndarray, length: int) -> list[int]:
    """Blocks beside the best one, in the order of what they add.

    rows, blocks, votes: (m,) what each token of the question gives each block, every pair once. length: of history.
    """
    found: list[int] = []
    least = OPEN * float(weigh(length, np.ones(1), np.ones(1))[0])
    if not len(rows):
        return found
    numbers, at = np.unique(blocks, return_inverse=True)
    covered, open_ = np.zeros(rows.max() + 1), np.ones(len(numbers), bool)
    for part in range(1 + MOST):
        left = np.bincount(at, np.maximum(votes - covered[rows], 0.0), len(numbers)) * open_
        first = int(left.argmax())
        if part and left[first] < least:
            break
        near = np.abs(numbers - numbers[first]) <= 1  # what was told may lie across an edge
        if part:
            both = np.flatnonzero(near & (left >= HALF * left[first]))
            found += numbers[both[np.argsort(-left[both], kind="stable")]].tolist()
        open_ &= ~near
        mine = near[at]
        np.maximum.at(covered, rows[mine], votes[mine])
    return found
