"""The GPT-2 adapter against transformers, at small random models read from a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gpt2_files import TINY, TOKENS, edit, reference, tokens_of, write_bin, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import ConfigError
from megacontext.models.base import ModelFileError
from megacontext.models.folder import Folder
from megacontext.models.gpt2 import GPT2
from megacontext.models.load_gpt2 import gpt2_config
from megacontext.testing.model_conformance import BaseModelTests
from nanochat.kv_cache import DenseCache, NoCache

CONFIGS = {
    "plain": {},
    "tiny": TINY,
    "one head": {"n_head": 1},
    "own head": {"tie_word_embeddings": False},
    "inner width": {"n_inner": 51},
    "erf gelu": {"activation_function": "gelu"},
    "tanh gelu": {"activation_function": "gelu_pytorch_tanh"},
    "relu": {"activation_function": "relu"},
    "unscaled": {"scale_attn_weights": False},
    "scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 4},
    "both scales": {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False, "n_layer": 3},
    "upcast": {"reorder_and_upcast_attn": True, "attn_implementation": "eager"},
    "eps": {"layer_norm_epsilon": 1e-2},
}


def load(folder: Path, *, dtype: torch.dtype = torch.float32, pack: bool = False, vocab: int | None = None) -> GPT2:
    weights = Folder(folder)
    return GPT2(gpt2_config(weights, vocab), weights, dtype=dtype, pack=pack)


@torch.inference_mode()
def logits(model: GPT2, tokens: torch.Tensor) -> torch.Tensor:
    return model.logits(model.forward(model.embed(tokens), NoCache(model.spec)))


@torch.inference_mode()
def in_chunks(model: GPT2, tokens: torch.Tensor, chunks: list[int]) -> torch.Tensor:
    """The chunks, then row by row, through a plain cache."""
    cache, parts, at = DenseCache(model.spec, capacity=4), [], 0
    for rows in (*chunks, *[1] * (tokens.shape[1] - sum(chunks))):
        parts.append(model.logits(model.forward(model.embed(tokens[:, at : at + rows]), cache)))
        at += rows
    return torch.cat(parts, 1)


@torch.inference_mode()
def expected(model, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens).logits


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


class TestGPT2IsABaseModel(BaseModelTests):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = write_folder(tmp_path / "model", reference())

    def make_model(self) -> GPT2:
        return load(self.folder, pack=True)


class TestTheTinyShapeIsABaseModel(BaseModelTests):
    """sshleifer/tiny-gpt2: two channels, heads of width one."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = write_bin(tmp_path / "model", reference(**TINY), zipped=False)

    def make_model(self) -> GPT2:
        return load(self.folder)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("pack", [False, True])
def test_logits_equal_those_of_transformers(tmp_path, name, pack):
    theirs, tokens = reference(**CONFIGS[name]), tokens_of(128)
    ours = load(write_folder(tmp_path, theirs), pack=pack)
    same(logits(ours, tokens), expected(theirs, tokens))
    same(in_chunks(ours, tokens, [1, 50, 3, 40]), expected(theirs, tokens))


@settings(max_examples=20, deadline=None)
@given(
    heads=st.integers(1, 5),
    head_dim=st.sampled_from([1, 2, 3, 8]),
    layers=st.integers(1, 3),
    inner=st.one_of(st.none(), st.integers(1, 70)),
    activation=st.sampled_from(["gelu_new", "gelu", "relu", "gelu_pytorch_tanh"]),
    scales=st.tuples(st.booleans(), st.booleans()),
    tied=st.booleans(),
    chunks=st.lists(st.integers(1, 12), max_size=3),
    seed=st.integers(0, 999),
)
def test_logits_equal_those_of_transformers_at_random_shapes(
    tmp_path_factory, heads, head_dim, layers, inner, activation, scales, tied, chunks, seed
):
    theirs = reference(
        seed,
        n_embd=max(2, heads * head_dim),  # the norm of a single channel is its bias, whatever comes in
        n_head=heads if heads * head_dim > 1 else 2,
        n_layer=layers,
        n_inner=inner,
        activation_function=activation,
        scale_attn_weights=scales[0],
        scale_attn_by_inverse_layer_idx=scales[1],
        tie_word_embeddings=tied,
    )
    tokens = tokens_of(40, seed)
    ours = load(write_folder(tmp_path_factory.mktemp("random"), theirs))
    same(logits(ours, tokens), expected(theirs, tokens))
    same(in_chunks(ours, tokens, chunks), expected(theirs, tokens))


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_old_files_give_the_same_model(tmp_path, prefix, zipped):
    """pytorch_model.bin, zipped or not, with `transformer.` before the names or without, masks among the weights."""
    theirs, tokens = reference(), tokens_of(60)
    same(logits(load(write_bin(tmp_path, theirs, prefix=prefix, zipped=zipped)), tokens), expected(theirs, tokens))


def test_a_head_beside_a_tied_embedding_is_ignored(tmp_path):
    theirs, tokens = reference(tie_word_embeddings=False), tokens_of(20)
    folder = write_folder(tmp_path, theirs)
    edit(folder / "config.json", tie_word_embeddings=None)  # GPT-2 is tied unless it says otherwise
    model = load(folder)
    same(model.logits(torch.eye(32)[None]), (theirs.transformer.wte.weight.T)[None])
    edit(folder / "config.json", tie_word_embeddings=False)
    same(logits(load(folder), tokens), expected(theirs, tokens))


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_cut_to_fewer_ids_answers_as_the_whole_one_does(tmp_path, tied):
    theirs, tokens = reference(tie_word_embeddings=tied), tokens_of(30) % 100
    ours = load(write_folder(tmp_path, theirs), vocab=100)
    assert ours.spec.vocab == 100
    same(logits(ours, tokens), expected(theirs, tokens)[:, :, :100])


def test_a_position_that_was_not_learned_is_refused_in_words(tmp_path):
    model = load(write_folder(tmp_path, reference()))
    cache = DenseCache(model.spec)
    model.forward(model.embed(tokens_of(128)), cache)
    with pytest.raises(ValueError, match=r"position 128 does not exist.* 0 to 127 .*n_positions.*memory\.budget"):
        model.forward(model.embed(tokens_of(1)), cache)


def test_bf16_stays_close_to_float32(tmp_path):
    folder, tokens = write_folder(tmp_path, reference()), tokens_of(60)
    exact, rounded = logits(load(folder), tokens), logits(load(folder, dtype=torch.bfloat16, pack=True), tokens)
    assert rounded.dtype == torch.float32
    assert (exact.log_softmax(-1) - rounded.log_softmax(-1)).abs().mean() < 0.05


def test_a_bf16_model_keeps_norms_positions_and_head_in_float32(tmp_path):
    model = load(write_folder(tmp_path, reference()), dtype=torch.bfloat16)
    assert model.spec.dtype == model.embedding.dtype == model.layers[0].qkv.dtype == torch.bfloat16
    assert {t.dtype for t in (model.positions, *model.norm, *model.layers[0].mlp_norm)} == {torch.float32}
    assert model.head.dtype == torch.float32


def test_scores_in_float32_are_refused_for_float16_alone(tmp_path):
    folder = write_folder(tmp_path, reference(reorder_and_upcast_attn=True))
    with pytest.raises(ConfigError, match=r"reorder_and_upcast_attn.*bfloat16"):
        load(folder, dtype=torch.float16)
    assert load(folder, dtype=torch.bfloat16)
    edit(folder / "config.json", reorder_and_upcast_attn=False)
    assert load(folder, dtype=torch.float16)


def test_gradients_reach_the_stream_of_an_unpacked_model(tmp_path):
    model = load(write_folder(tmp_path, reference()))
    stream = model.embed(tokens_of(8))
    stream.x.requires_grad_(True)
    model.logits(model.forward(stream, NoCache(model.spec))).sum().backward()
    assert stream.x.grad is not None
    assert stream.x.grad.abs().sum() > 0


def test_the_fingerprint_tells_weights_settings_and_dtypes_apart(tmp_path):
    one = write_folder(tmp_path / "one", reference())
    same_again = write_folder(tmp_path / "same", reference())
    other = write_folder(tmp_path / "other", reference(seed=1))
    scaled = write_folder(tmp_path / "scaled", reference(scale_attn_by_inverse_layer_idx=True))
    prints = [load(folder).spec.fingerprint for folder in (one, other, scaled)]
    prints += [load(one, dtype=torch.bfloat16).spec.fingerprint, load(one, vocab=9).spec.fingerprint]
    assert len(set(prints)) == 5
    assert load(same_again).spec.fingerprint == prints[0]


def test_parameters_are_counted_once(tmp_path):
    for tied in (False, True):
        theirs = reference(tie_word_embeddings=tied)
        ours = load(write_folder(tmp_path / str(tied), theirs))
        assert ours.parameters == sum(p.numel() for p in theirs.parameters())
        assert ours.weight_bytes == 4 * ours.parameters


def test_the_spec_says_that_keys_cannot_be_moved(tmp_path):
    spec = load(write_folder(tmp_path, reference())).spec
    assert (spec.family, spec.max_position, spec.relocatable, spec.vocab) == ("gpt2", 128, False, len(TOKENS))
    key = torch.randn(1, 4, 3, 8)
    assert spec.rotation.rotate(key, spec.rotation.at(torch.arange(3))) is key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "gelu_fastest"}, "gelu_fastest.*gelu_new"),
        ({"activation_function": ["relu"]}, "relu"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"quantization_config": {"bits": 4}}, "GGUF"),
    ],
)
def test_an_unsupported_kind_is_a_config_error(tmp_path, changes, message):
    edit(write_folder(tmp_path, reference()) / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embd": "32"}, "n_embd"),
        ({"n_head": 3}, "n_head"),
        ({"n_layer": 3}, r"transformer\.h\.2\.ln_1"),
        ({"n_inner": 97}, "c_fc"),
        ({"n_positions": 64}, "wpe"),
        ({"vocab_size": 17}, "wte"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon"),
        ({"scale_attn_weights": "yes"}, "scale_attn_weights"),
        ({"tie_word_embeddings": False}, r"lm_head\.weight"),
    ],
)
def test_a_config_that_does_not_fit_names_the_place(tmp_path, changes, message):
    edit(write_folder(tmp_path, reference()) / "config.json", **changes)
    with pytest.raises(ModelFileError, match=message):
        load(tmp_path)
