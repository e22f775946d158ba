"""The Llama adapter against transformers, at small random models read from a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_files import reference, tokens_of, write_folder

from megacontext.models.folder import Folder
from megacontext.models.linear import Linear, PackedLinear, can_pack
from megacontext.models.llama import Llama
from megacontext.models.load_llama import llama_config
from megacontext.testing.model_conformance import BaseModelTests
from nanochat.kv_cache import DenseCache, NoCache

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CONFIGS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "one head a group": {"num_key_value_heads": 4},
    "one group": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 32},
    "llama 3 rope": {"rope_parameters": LLAMA3_ROPE},
    "linear rope": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}},
    "long base": {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
    "eps": {"rms_norm_eps": 1e-2},
}


def load(folder: Path, *, dtype: torch.dtype = torch.float32, pack: bool = False) -> Llama:
    weights = Folder(folder)
    return Llama(llama_config(weights), weights, dtype=dtype, pack=pack)


def logits(model: Llama, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.logits(model.forward(model.embed(tokens), NoCache(model.spec)))


def expected(model, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(tokens).logits


class TestLlamaIsABaseModel(BaseModelTests):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = write_folder(tmp_path / "model", reference())

    def make_model(self) -> Llama:
        return load(self.folder, pack=True)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("pack", [False, True])
def test_logits_equal_those_of_transformers(tmp_path, name, pack):
    theirs = reference(**CONFIGS[name])
    tokens = tokens_of(100)
    ours = load(write_folder(tmp_path, theirs), pack=pack)
    torch.testing.assert_close(logits(ours, tokens), expected(theirs, tokens), atol=1e-4, rtol=0)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.sampled_from([(1, 1), (2, 1), (3, 1), (4, 2), (6, 3), (9, 3)]),
    head_dim=st.sampled_from([4, 6, 8, 16]),
    breadth=st.integers(2, 9),
    layers=st.integers(1, 3),
    tied=st.booleans(),
    biases=st.tuples(st.booleans(), st.booleans()),
    scaled=st.booleans(),
    seed=st.integers(0, 999),
)
def test_logits_equal_those_of_transformers_at_random_shapes(
    tmp_path_factory, groups, head_dim, breadth, layers, tied, biases, scaled, seed
):
    theirs = reference(
        seed,
        hidden_size=2 * groups[0] * breadth,
        intermediate_size=8 * breadth + 1,
        num_hidden_layers=layers,
        num_attention_heads=groups[0],
        num_key_value_heads=groups[1],
        head_dim=head_dim,
        tie_word_embeddings=tied,
        attention_bias=biases[0],
        mlp_bias=biases[1],
        rope_parameters=LLAMA3_ROPE if scaled else {"rope_type": "default", "rope_theta": 10_000.0},
    )
    tokens = tokens_of(40, seed)
    ours = load(write_folder(tmp_path_factory.mktemp("random"), theirs))
    torch.testing.assert_close(logits(ours, tokens), expected(theirs, tokens), atol=1e-4, rtol=0)


def test_a_sliding_window_equals_that_of_mistral(tmp_path):
    from llama_files import SIZES
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    theirs = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=7, attn_implementation="eager")).eval()
    tokens = tokens_of(50)
    ours = load(write_folder(tmp_path, theirs))
    assert ours.spec.windows == (6, 6)
    torch.testing.assert_close(logits(ours, tokens), expected(theirs, tokens), atol=1e-4, rtol=0)


def test_decoding_token_by_token_equals_transformers(tmp_path):
    theirs, tokens = reference(), tokens_of(40)
    ours = load(write_folder(tmp_path, theirs))
    cache = DenseCache(ours.spec)
    with torch.inference_mode():
        rows = [ours.logits(ours.forward(ours.embed(tokens[:, i : i + 1]), cache)) for i in range(40)]
    torch.testing.assert_close(torch.cat(rows, 1), expected(theirs, tokens), atol=1e-4, rtol=0)


def test_bf16_stays_close_to_float32(tmp_path):
    folder, tokens = write_folder(tmp_path, reference()), tokens_of(60)
    exact, rounded = logits(load(folder), tokens), logits(load(folder, dtype=torch.bfloat16, pack=True), tokens)
    assert rounded.dtype == torch.float32
    assert (exact.log_softmax(-1) - rounded.log_softmax(-1)).abs().mean() < 0.05


def test_gradients_reach_the_stream_of_an_unpacked_model(tmp_path):
    model = load(write_folder(tmp_path, reference()))
    stream = model.embed(tokens_of(8))
    stream.x.requires_grad_(True)
    model.logits(model.forward(stream, NoCache(model.spec))).sum().backward()
    assert stream.x.grad is not None
    assert stream.x.grad.abs().sum() > 0


def test_the_fingerprint_tells_weights_settings_and_dtypes_apart(tmp_path):
    one = write_folder(tmp_path / "one", reference())
    same = write_folder(tmp_path / "same", reference())
    other = write_folder(tmp_path / "other", reference(seed=1))
    scaled = write_folder(tmp_path / "scaled", reference(rope_parameters=LLAMA3_ROPE))
    prints = [load(folder).spec.fingerprint for folder in (one, other, scaled)]
    prints.append(load(one, dtype=torch.bfloat16).spec.fingerprint)
    assert len(set(prints)) == 4
    assert load(same).spec.fingerprint == prints[0]


def test_parameters_are_counted_once(tmp_path):
    for tied in (False, True):
        theirs = reference(tie_word_embeddings=tied)
        ours = load(write_folder(tmp_path / str(tied), theirs))
        assert ours.parameters == sum(p.numel() for p in theirs.parameters())
        assert ours.weight_bytes == 4 * ours.parameters


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 5, 130])
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_matrix_multiplies_like_a_plain_one(dtype, rows, bias):
    if not can_pack(dtype, "cpu"):
        pytest.skip("no oneDNN for this dtype here")
    torch.manual_seed(0)
    weight, x = torch.randn(96, 64, dtype=dtype), torch.randn(2, rows, 64, dtype=dtype)
    extra = torch.randn(96, dtype=dtype) if bias else None
    with torch.inference_mode():
        packed, plain = PackedLinear(weight, extra)(x), Linear(weight, extra)(x)
    tolerance = 1e-4 if dtype == torch.float32 else 0.26  # one bf16 step at 32 to 64
    torch.testing.assert_close(packed, plain, atol=tolerance, rtol=0)
