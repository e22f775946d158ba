"""Rotary positions: rotation is relative, and tables have no end."""

import torch

from nanochat.rotary import NoRotation, Rotary


def rotated(rotary: Rotary, x: torch.Tensor, position: int) -> torch.Tensor:
    rotary.reserve(position + 1)
    return rotary.rotate(x, rotary.at(torch.tensor([position])))


def test_a_score_depends_on_the_distance_alone():
    rotary = Rotary.of_base(16, 1e4)
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)
    near = (rotated(rotary, q, 7) * rotated(rotary, k, 3)).sum()
    far = (rotated(rotary, q, 907) * rotated(rotary, k, 903)).sum()
    torch.testing.assert_close(near, far, atol=1e-4, rtol=1e-4)


def test_tables_grow_without_changing_what_they_held():
    rotary = Rotary.of_base(8, 1e4, length=4)
    x = torch.randn(1, 1, 1, 8)
    before = rotated(rotary, x, 3)
    rotated(rotary, x, 100_000)
    assert torch.equal(before, rotated(rotary, x, 3))


def test_the_sign_says_which_way_it_turns():
    forward, backward = Rotary.of_base(8, 1e4), Rotary.of_base(8, 1e4, sign=-1)
    x = torch.randn(1, 1, 1, 8)
    torch.testing.assert_close(rotated(backward, rotated(forward, x, 9), 9), x)


def test_no_rotation_leaves_keys_alone():
    x = torch.randn(1, 2, 3, 4)
    assert NoRotation().rotate(x, NoRotation().at(torch.arange(3))) is x
