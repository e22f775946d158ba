"""A node of few rows in place of many, against plain loops and plain gradient descent."""

from __future__ import annotations

import pytest
import torch

from megacontext.baselines.matching import (
    Bounds,
    columns,
    fit_node,
    fit_values,
    fit_weights,
    highest_attention,
    logits_of,
    matching_pursuit,
)

WIDE = Bounds(1e-12, 1e3)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def projected(design, target, bounds, steps=20_000):
    """The simplest solver of one problem in bounds: plain projected gradient descent, float64."""
    design, target = design.double(), target.double()
    curvature, slope = design.T @ design, design.T @ target
    rate = 1 / torch.linalg.matrix_norm(curvature, 2)
    weights = torch.ones(design.shape[1], dtype=torch.float64)
    for _ in range(steps):
        weights = (weights - rate * (curvature @ weights - slope)).clamp(*bounds)
    return weights


def loss(design, target, weights):
    return float((design.double() @ weights.double() - target.double()).square().sum())


@pytest.mark.parametrize("bounds", [WIDE, Bounds(0.5, 2.0)])
def test_weights_are_as_good_as_plain_projected_descents(bounds):
    design, target = drawn(3, 40, 8).abs(), drawn(3, 40, seed=1).abs() * 5
    weights = fit_weights(design, target, bounds, steps=300)
    assert weights.min() >= bounds.lower
    assert weights.max() <= bounds.upper
    for head in range(3):
        best = loss(design[head], target[head], projected(design[head], target[head], bounds))
        assert loss(design[head], target[head], weights[head]) <= best * 1.001 + 1e-6


def test_weights_inside_the_bounds_are_least_squares():
    design, truth = drawn(2, 30, 6).abs(), drawn(2, 6, seed=2).abs() + 0.5
    weights = fit_weights(design, (design @ truth[..., None])[..., 0], WIDE)
    torch.testing.assert_close(weights, truth, atol=1e-3, rtol=0)


def test_values_are_ridge_regression_towards_their_own():
    attention, output, own = drawn(2, 20, 5).softmax(-1), drawn(2, 20, 3, seed=1), drawn(2, 5, 3, seed=2)
    got = fit_values(attention.clone(), output, own, ridge=0.1)
    for head in range(2):
        a = attention[head].double()
        pull = 0.1 * (a.T @ a).diagonal().mean() * torch.eye(5, dtype=torch.float64)
        expected = torch.linalg.inv(a.T @ a + pull) @ (a.T @ output[head].double() + pull @ own[head].double())
        torch.testing.assert_close(got[head].double(), expected, atol=1e-4, rtol=0)


def test_the_rows_with_most_attention_are_chosen():
    logits = drawn(2, 11, 7)
    for head, chosen in enumerate(highest_attention(logits, 3).tolist()):
        mean_square = [0.0] * 7
        for query in logits[head].tolist():
            powers = torch.tensor(query).exp()
            for row in range(7):
                mean_square[row] += float(powers[row] / powers.sum()) ** 2
        assert chosen == sorted(sorted(range(7), key=lambda row: -mean_square[row])[:3])


def test_pursuit_takes_what_goes_best_with_what_is_missing():
    logits = drawn(1, 30, 9)
    mass = (logits - logits.amax(-1, keepdim=True)).exp()[0].double()
    target, chosen = mass.sum(1), []
    missing = target
    for _ in range(4):
        gains = [float("-inf") if row in chosen else float(missing @ mass[:, row]) for row in range(9)]
        chosen.append(gains.index(max(gains)))
        design = mass[:, chosen]
        missing = target - design @ torch.linalg.lstsq(design, target[:, None]).solution[:, 0].clamp(*WIDE)
    assert matching_pursuit(logits, 4, 1, WIDE).tolist() == [sorted(chosen)]


def errors(logits, values, chosen, bias, new_values):
    """Relative error of log-mass and output of a node, root mean square over queries."""
    kept = columns(logits, chosen) + bias[:, None]
    mass = (kept.logsumexp(-1) - logits.logsumexp(-1)).square().mean().sqrt()
    output = logits.softmax(-1) @ values
    return float(mass), float((kept.softmax(-1) @ new_values - output).norm() / output.norm())


@pytest.mark.parametrize("by", ["highest", "omp"])
def test_a_fitted_node_is_closer_than_the_top_keys_as_they_are(by):
    queries, keys, values = drawn(2, 160, 16), drawn(2, 64, 16, seed=1), drawn(2, 64, 16, seed=2)
    logits = logits_of(queries, keys)
    top = highest_attention(logits, 8)
    chosen = top if by == "highest" else matching_pursuit(logits, 8, 1, WIDE)
    node = fit_node(logits, values, chosen, columns(logits, chosen), WIDE, steps=50, ridge=0.01)
    own = values.gather(1, top[..., None].expand(-1, -1, 16))
    dropped = errors(logits, values, top, torch.zeros(2, 8), own)
    fitted = errors(logits, values, chosen, node.bias, node.values)
    assert fitted[0] < dropped[0] / 4
    assert fitted[1] < dropped[1] / 1.5


@pytest.mark.parametrize("by", ["highest", "omp"])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_a_node_of_its_own_size_is_left_as_it_is(by, spread):
    """Even where the queries are fewer than the rows and say little, and where it has a bias already."""
    queries, keys, values = drawn(2, 5, 8), drawn(2, 12, 8, seed=1), drawn(2, 12, 8, seed=2)
    logits = logits_of(queries, keys, spread * drawn(2, 12, seed=3))
    chosen = highest_attention(logits, 12) if by == "highest" else matching_pursuit(logits, 12, 2, WIDE)
    assert chosen.tolist() == [list(range(12))] * 2
    node = fit_node(logits, values, chosen, logits, WIDE, steps=2, ridge=0.01)
    torch.testing.assert_close(node.bias, torch.zeros(2, 12), atol=1e-5, rtol=0)
    torch.testing.assert_close(node.values, values, atol=1e-5, rtol=0)
