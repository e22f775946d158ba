"""Numbers that the public revisions of upstream produced, seven of them, on weights given by a formula.

In three cells upstream is wrong: G1 and G2 forgot the window when decoding with a cache, G4 skips the smear of a
chunk's first row. There, as everywhere, a cache must change nothing here.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.testing.toy import ToyTokenizer, cached_logits, full_logits
from nanochat.engine import Engine
from nanochat.generations import detect, named
from nanochat.gpt import GPT, GPTConfig
from nanochat.kv_cache import DenseCache
from nanochat.upstream_cache import KVCache

FILE = json.loads((Path(__file__).parent / "data" / "nanochat_golden.json").read_text(encoding="utf-8"))
REVISIONS = FILE["generations"]
GENERATION = {"G2fix": "G2"}
TOKENS = [(7 * t * t + 3 * t + 1) % 90 for t in range(300)]
CLOSE = {"atol": 1e-4, "rtol": 0}


def hashed(name: str, count: int) -> np.ndarray:
    """`count` values in [-1, 1): a 32-bit hash of the flat index, seeded by the name."""
    seed = 1000003 * (sum(name.encode()) % 1000)
    x = (np.arange(count, dtype=np.uint64) + 1 + seed).astype(np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x.astype(np.float64) / 2**31 - 1


def weight(name: str, shape: list[int]) -> torch.Tensor:
    count = int(np.prod(shape))
    scalars = {
        "resid_lambdas": 1 + 0.05 * np.arange(count),
        "x0_lambdas": 0.1 * (np.arange(count) + 1),
        "smear_lambda": np.array([0.5]),
        "backout_lambda": np.array([0.2]),
    }
    scale = 0.5 if name == "lm_head.weight" else 0.25
    if any(part in name for part in ("wte", "value_embeds", "gate")):
        scale = 1.0
    values = scalars[name] if name in scalars else scale * hashed(name, count)
    return torch.tensor(values, dtype=torch.float32).view(shape)


def build(revision: str) -> GPT:
    config = GPTConfig(**{**FILE["config"], "window_pattern": "SSSL"})
    state = {name: weight(name, shape) for name, shape in REVISIONS[revision]["params"].items()}
    generation = named(GENERATION.get(revision, revision))
    rows = len(state["transformer.wte.weight"])
    model = GPT(config, rows, generation=generation, compute_dtype=torch.float32)
    model.load_state_dict(state)
    return model.requires_grad_(False)


@pytest.fixture(scope="module", params=REVISIONS)
def revision(request):
    return request.param


@pytest.fixture(scope="module")
def model(revision):
    return build(revision)


@pytest.fixture(scope="module")
def full(model):
    return full_logits(model, TOKENS)


def test_names_and_shapes_are_upstreams(model, revision):
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == REVISIONS[revision]["params"]


def test_the_generation_is_detected_from_the_parameters(model, revision):
    if revision == "G2s20":
        assert detect(model.state_dict()).name == "G2"  # the softcap cannot be seen
    else:
        assert detect({f"_orig_mod.{k}": v for k, v in model.state_dict().items()}) is model.generation


def test_windows_are_upstreams(model, revision):
    expected = [tuple(window) for window in REVISIONS[revision].get("windows", [(-1, 0)] * 4)]
    assert model.window_sizes == expected


def test_the_loss_is_upstreams(model, revision):
    idx = torch.tensor([TOKENS])
    targets = torch.cat([idx[:, 1:], torch.tensor([[-1]])], 1)
    assert model(idx, targets).item() == pytest.approx(REVISIONS[revision]["loss"], abs=1e-4)
    assert model(idx, targets, loss_reduction="none").shape == (300,)


def test_logits_are_upstreams(full, revision):
    golden = REVISIONS[revision]
    for position, values in golden["logits"].items():
        torch.testing.assert_close(full[int(position), : len(values)], torch.tensor(values), **CLOSE)
    assert full.norm().item() == pytest.approx(golden["l2"], abs=1e-3)
    assert full.abs().max().item() == pytest.approx(golden["absmax"], abs=1e-4)


def test_prefill_and_single_steps_equal_the_full_forward(model, full):
    logits = cached_logits(model, DenseCache(model.spec, capacity=16), TOKENS, [150])
    torch.testing.assert_close(logits, full, **CLOSE)


def test_two_chunks_equal_the_full_forward(model, full):
    logits = cached_logits(model, DenseCache(model.spec), TOKENS, [150, 150])
    torch.testing.assert_close(logits, full, **CLOSE)


@settings(max_examples=8, deadline=None)
@given(chunks=st.lists(st.integers(1, 120), min_size=3, max_size=30))
def test_chunks_of_any_size_equal_the_full_forward(model, full, chunks):
    while sum(chunks) < len(TOKENS):
        chunks = chunks + chunks
    logits = cached_logits(model, DenseCache(model.spec), TOKENS, chunks)
    torch.testing.assert_close(logits, full, **CLOSE)


def test_upstreams_cache_equals_the_full_forward(model, full):
    cache = KVCache(
        batch_size=1, num_heads=2, seq_len=300, head_dim=16, num_layers=4, device="cpu", dtype=torch.float32
    )
    parts = [model(torch.tensor([part]), kv_cache=cache) for part in (TOKENS[:150], TOKENS[150:299], TOKENS[299:])]
    torch.testing.assert_close(torch.cat(parts, 1)[0], full, **CLOSE)
    assert cache.get_pos() == 300


def test_three_samples_decoded_together_equal_three_full_forwards(model):
    cache = DenseCache(model.spec)
    cached_logits(model, cache, TOKENS[:140], [140])
    branches = cache.fork(3)
    rests = [TOKENS[140 + 5 * row : 160 + 5 * row] for row in range(3)]
    steps = [model(torch.tensor(column)[:, None], kv_cache=branches) for column in zip(*rests, strict=True)]
    for row, rest in enumerate(rests):
        expected = full_logits(model, TOKENS[:140] + rest)[140:]
        torch.testing.assert_close(torch.cat(steps, 1)[row], expected, **CLOSE)


class GoldenTokenizer(ToyTokenizer):
    """The special ids that the golden run used: bos 81, user and assistant 82 .. 85, python 86, 87, output 88, 89."""

    def encode_special(self, text):
        return super().encode_special(text) - 256 + 81


def test_greedy_with_a_cache_and_without_give_upstreams_tokens(model, revision):
    golden, prompt = REVISIONS[revision], TOKENS[:200]
    assert list(model.generate(prompt, 16, temperature=0)) == golden["naive16"]
    columns = Engine(model, GoldenTokenizer()).generate(prompt, max_tokens=16, temperature=0)
    assert [column[0] for column, _ in columns] == golden["greedy16"]
