"""Few rows that stand for many: keys chosen, a bias on their logits and new values fitted, so that attention matches.

The mathematics of attention matching (arXiv 2602.16284, section 3); it knows no cache. All is float32 and batched over
B KV heads: r reference queries, n rows that are there, m rows that stay, d head width.

A node of rows gives a query its mass, sum_i exp(q.k_i / sqrt(d) + b_i), and its output, the mean of the values under
these weights. If a smaller node gives the same mass and the same output, nobody outside can tell the two apart. With
keys chosen among those there are, exp(bias) is a non-negative least-squares problem on the mass, and the values are a
least-squares problem on the output. Both are solved with a small ridge towards what the chosen rows were (their own
bias and values), so that what the queries do not tell stays as it is; a node fitted to its own size is left unchanged.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Keys = Literal["highest", "omp"]
TINY = 1e-30  # least length of a column of masses


class Bounds(NamedTuple):
    """Of exp(bias), relative to what it was."""

    lower: float
    upper: float


class Node(NamedTuple):
    """bias: (B, m) to add to that of the chosen rows. values: (B, m, d)."""

    bias: Tensor
    values: Tensor


def logits_of(queries: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
    """queries (B, r, d), keys (B, n, d), bias (B, n) -> (B, r, n) float32."""
    logits = queries.float() @ keys.float().mT * queries.shape[-1] ** -0.5
    return logits if bias is None else logits + bias[:, None]


def highest_attention(logits: Tensor, size: int) -> Tensor:
    """(B, size) the rows with the largest root mean square of attention over the queries, ascending."""
    return logits.softmax(-1).square().mean(1).topk(size, dim=-1).indices.sort(-1).values


def matching_pursuit(logits: Tensor, size: int, pick: int, bounds: Bounds) -> Tensor:
    """(B, size) rows, ascending: always the `pick` that go best with the mass that is still missing; then all refitted.

    Orthogonal matching pursuit on the mass of each query, relative to the largest of its terms.
    """
    mass = (logits - logits.amax(-1, keepdim=True)).exp()
    target = missing = mass.sum(-1)
    barred = torch.zeros_like(mass[:, 0])
    chosen = barred[:, :0].long()
    while chosen.shape[1] < size:
        gain = (missing[:, None] @ mass)[:, 0] + barred
        best = gain.topk(min(pick, size - chosen.shape[1]), dim=-1).indices
        barred.scatter_(1, best, float("-inf"))
        chosen = torch.cat([chosen, best], 1)
        design = columns(mass, chosen)
        missing = target - (design @ fit_weights(design, target, bounds)[..., None])[..., 0]
    return chosen.sort(-1).values


def columns(table: Tensor, index: Tensor) -> Tensor:
    """table (B, r, n), index (B, m) -> (B, r, m)."""
    return table.gather(2, index[:, None].expand(-1, table.shape[1], -1))


def fit_weights(design: Tensor, target: Tensor, bounds: Bounds, *, steps: int = 0, ridge: float = 1e-6) -> Tensor:
    """Weights (B, m) within bounds for which design (B, r, m) @ weights comes close to target (B, r), row by row.

    Least squares, cut to the bounds, then `steps` of accelerated projected gradient descent (FISTA), in columns of
    length one. ridge: pull towards a weight of 1, relative to such a column.
    """
    size = design.norm(dim=1).clamp_min(TINY)  # (B, m)
    unit = design / size[:, None]
    missing = target - design.sum(-1)  # at weight 1
    curvature = unit.mT @ unit
    curvature.diagonal(dim1=1, dim2=2).add_(ridge)
    slope = (unit.mT @ missing[..., None])[..., 0]
    low, high = (bounds.lower - 1) * size, (bounds.upper - 1) * size
    change = torch.linalg.solve(curvature, slope).clamp(low, high)
    rate = 1 / curvature.abs().sum(-1).amax(-1, keepdim=True)
    ahead, momentum = change, 1.0
    for _ in range(steps):
        gradient = (curvature @ ahead[..., None])[..., 0] - slope
        moved = (ahead - rate * gradient).clamp(low, high)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = moved + (momentum - 1) / following * (moved - change)
        change, momentum = moved, following
    return (1 + change / size).clamp(bounds.lower, bounds.upper)


def fit_values(attention: Tensor, output: Tensor, own: Tensor, ridge: float) -> Tensor:
    """Values (B, m, d) for which attention (B, r, m) @ values comes close to output (B, r, d).

    own: (B, m, d) what they are drawn to. ridge: how strongly, relative to the mean square weight of a row.
    """
    curvature = attention.mT @ attention
    diagonal = curvature.diagonal(dim1=1, dim2=2)
    diagonal.add_(ridge * diagonal.mean(-1, keepdim=True))
    return own + torch.linalg.solve(curvature, attention.mT @ (output - attention @ own))


def fit_node(
    logits: Tensor, values: Tensor, chosen: Tensor, moved: Tensor, bounds: Bounds, *, steps: int, ridge: float
) -> Node:
    """logits (B, r, n), bias included, and values (B, n, d) of a node -> the node of its `chosen` rows (B, m).

    moved: (B, r, m) logits of the chosen rows, bias included, where they will stand.
    """
    values = values.float()
    top = logits.amax(-1, keepdim=True)
    target = (logits - top).exp().sum(-1)
    weights = fit_weights((moved - top).exp(), target, bounds, steps=steps)
    bias = weights.log()
    output = logits.softmax(-1) @ values
    own = values.gather(1, chosen[..., None].expand(-1, -1, values.shape[2]))
    return Node(bias, fit_values((moved + bias[:, None]).softmax(-1), output, own, ridge))


def flops_of_node(logits: Tensor, size: int, width: int) -> int:
    """Multiply-adds x 2 of logits (B, r, n) and outputs, of both normal equations and of their solutions."""
    heads, queries, rows = logits.shape
    products = 2 * queries * (rows * width + size * size + size * width)
    return 2 * heads * (products + size**3)
