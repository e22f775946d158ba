"""The top-token gist: per layer and KV head, the tokens of a block that later text attended to most.

Key and value are the token's own, so no bias is needed. The best untrained stand-in with one slot (dev/LOG.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from megacontext.arena import Page
from megacontext.gist.base import Gist, GistMaker


class TopTokenGist(GistMaker):
    """Keeps the most attended tokens; a parent keeps the most attended of its children's."""

    fingerprint = "top-token/1"

    def of_page(self, page: Page, mass: Tensor, slots: int) -> Gist:
        return _select(page.keys, page.values, mass, slots)

    def of_gists(self, children: Sequence[Gist], slots: int) -> Gist:
        keys, values, mass = (torch.cat([child[i] for child in children], 2) for i in range(3))
        return _select(keys, values, mass, slots)


def _select(keys: Tensor, values: Tensor, mass: Tensor, slots: int) -> Gist:
    """keys, values (L, Hk, n, d), mass (L, Hk, n) -> the `slots` largest per layer and head, in time order."""
    at = mass.topk(slots, -1).indices.sort(-1).values
    wide = at[..., None].expand(*at.shape, keys.shape[-1])
    return Gist(keys.gather(2, wide), values.gather(2, wide), mass.gather(2, at))
