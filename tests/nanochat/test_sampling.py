import pytest
import torch

from nanochat.sampling import Sampler, sample_next_token


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


LOGITS = torch.tensor([[0.0, 3.0, 1.0, 2.0]])


def test_temperature_zero_takes_the_most_likely():
    assert sample_next_token(LOGITS.expand(3, -1), rng(), temperature=0).tolist() == [[1], [1], [1]]


@pytest.mark.parametrize("top_k", [None, 0, -1])
def test_no_top_k_draws_from_the_whole_vocabulary(top_k):
    drawn = sample_next_token(LOGITS.expand(4000, -1), rng(), 1.0, top_k)
    assert drawn.shape == (4000, 1)
    frequencies = torch.bincount(drawn[:, 0], minlength=4) / 4000
    torch.testing.assert_close(frequencies, LOGITS[0].softmax(0), atol=0.03, rtol=0)


def test_top_k_draws_from_the_k_best():
    assert set(sample_next_token(LOGITS.expand(500, -1), rng(), 5.0, 2)[:, 0].tolist()) == {1, 3}


def test_top_k_beyond_the_vocabulary_is_the_whole_vocabulary():
    assert set(sample_next_token(LOGITS.expand(500, -1), rng(), 5.0, 99)[:, 0].tolist()) == {0, 1, 2, 3}


def test_a_cold_sampler_is_nearly_greedy():
    assert set(sample_next_token(LOGITS.expand(200, -1), rng(), 0.05)[:, 0].tolist()) == {1}


def test_rows_of_one_call_draw_apart():
    flat = torch.zeros(8, 1000)
    assert len(set(sample_next_token(flat, rng())[:, 0].tolist())) > 1


def test_a_negative_temperature_is_refused():
    with pytest.raises(AssertionError, match="-1"):
        sample_next_token(LOGITS, rng(), temperature=-1)
    with pytest.raises(ValueError, match="-1"):
        Sampler(temperature=-1)


def test_a_sampler_is_fixed_by_its_seed():
    flat = torch.zeros(1, 1000)
    draws = [[sampler(flat) for _ in range(5)] for sampler in (Sampler(seed=1), Sampler(seed=1), Sampler(seed=2))]
    assert draws[0] == draws[1] != draws[2]
