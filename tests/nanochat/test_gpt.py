import pytest
import torch

from megacontext.testing.toy import cached_logits, full_logits, ids, run, toy_model, toy_tokens
from nanochat import gpt
from nanochat.generations import GENERATIONS, detect, named
from nanochat.gpt import GPT, GPTConfig
from nanochat.hook import Stream
from nanochat.kv_cache import DenseCache, NoCache

SMALL = GPTConfig(sequence_len=64, vocab_size=90, n_layer=3, n_head=4, n_kv_head=2, n_embd=32)


def build(generation, device="cpu", dtype=torch.float32):
    with torch.device(device):
        return GPT(SMALL, generation=named(generation), compute_dtype=dtype)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_model_is_born_on_the_meta_device_and_initialised_in_place(generation):
    model = build(generation, "meta")
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    model.init_weights()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model(torch.tensor([[1, 2, 3]])).isfinite().all()
    assert model.get_device() == torch.device("cpu")


@pytest.mark.parametrize("generation", GENERATIONS)
def test_fresh_weights_predict_almost_nothing(generation):
    model = build(generation)
    model.init_weights()
    assert model.lm_head.weight.abs().max() < 0.01
    assert all(not block.attn.c_proj.weight.any() for block in model.transformer.blocks)


def test_fresh_scalars_of_the_newest_generation_fall_with_depth():
    model = build("G4")
    model.init_weights()
    torch.testing.assert_close(model.resid_lambdas.data, torch.tensor([1.15, 1.10, 1.05]))
    torch.testing.assert_close(model.x0_lambdas.data, torch.tensor([0.20, 0.125, 0.05]))
    assert (model.smear_lambda.item(), model.backout_lambda.item()) == (0, pytest.approx(0.2))


def test_embeddings_take_the_compute_dtype_at_birth():
    model = build("G4", dtype=torch.bfloat16)
    model.init_weights()
    assert model.transformer.wte.weight.dtype == torch.bfloat16
    assert model.lm_head.weight.dtype == torch.float32


def test_the_vocabulary_is_padded_and_the_padding_never_shows():
    assert build("G4").transformer.wte.weight.shape[0] == 128
    assert GPT(SMALL, 90).lm_head.weight.shape[0] == 90
    assert toy_model(vocab_size=90)(torch.tensor([[1, 2]])).shape == (1, 2, 90)


@pytest.mark.parametrize(
    ("generation", "sequence_len", "short"),
    [("G1", 512, 256), ("G2", 513, 256), ("G3", 2048, 768), ("G4", 2048, 512), ("G3", 512, 256), ("G4", 512, 128)],
)
def test_short_windows_are_those_of_the_generation(generation, sequence_len, short):
    assert named(generation).windows("SSSL", 6, sequence_len) == (
        short,
        short,
        short,
        sequence_len,
        short,
        sequence_len,
    )


def test_the_oldest_generation_has_no_windows():
    assert named("g0").windows("SSSL", 3, 64) == (None, None, None)


def test_a_window_pattern_of_other_letters_is_refused():
    with pytest.raises(ValueError, match="'SXL'"):
        named("G4").windows("SXL", 3, 64)


def test_an_unknown_generation_names_the_choices():
    with pytest.raises(ValueError, match="G2s20"):
        named("G7")


def test_a_gate_of_unknown_width_is_no_known_generation():
    with pytest.raises(ValueError, match="16 channels"):
        detect({"transformer.h.1.attn.ve_gate.weight": torch.zeros(2, 16)})


@pytest.mark.parametrize(
    "sizes", [{"n_embd": 30}, {"n_embd": 36, "n_head": 12}, {"n_head": 6, "n_kv_head": 4, "n_embd": 60}]
)
def test_sizes_that_do_not_divide_are_refused(sizes):
    with pytest.raises(ValueError, match=r"n_embd|n_head"):
        GPTConfig(**{"n_head": 4, "n_kv_head": 4, "n_embd": 64, **sizes})


def test_an_unknown_config_key_is_named():
    with pytest.raises(ValueError, match="n_heads"):
        GPTConfig.from_dict({"n_layer": 2, "n_heads": 4})


def test_a_model_too_narrow_for_its_smear_gate_is_refused():
    with pytest.raises(ValueError, match="at least 24"):
        GPT(GPTConfig(n_embd=16, n_head=2, n_kv_head=2))


@pytest.mark.parametrize("generation", GENERATIONS)
def test_decoding_goes_on_far_past_ten_times_the_trained_length(generation):
    model = toy_model(generation, sequence_len=16)
    tokens = toy_tokens(16 * 14)
    logits = cached_logits(model, DenseCache(model.spec), tokens, [100])
    torch.testing.assert_close(logits, full_logits(model, tokens), atol=1e-4, rtol=0)


def test_a_long_window_is_a_window_too():
    """Beyond sequence_len rows a layer, a token is out of sight: two layers of window 16 reach 32 rows back."""
    model = toy_model("G1", sequence_len=16, n_layer=2, window_pattern="L")
    tokens = toy_tokens(60)
    logits = full_logits(model, tokens)
    out_of_reach = full_logits(model, [1, *tokens[1:]])
    torch.testing.assert_close(logits[33:], out_of_reach[33:])
    assert (logits[32] - out_of_reach[32]).abs().max() > 1e-6


def test_one_token_is_a_prompt_for_the_naive_reference():
    assert len(list(toy_model("G4").generate([5], 3, temperature=0))) == 3


def test_naive_sampling_is_fixed_by_its_seed():
    model = toy_model()
    first, again, other = (list(model.generate([1, 2], 8, top_k=20, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_rows_that_are_no_tokens_bring_their_value_embeddings():
    model = toy_model("G4")
    tokens = ids(model, toy_tokens(9))
    stream = model.embed(tokens)
    side = {f"value_embeds.{i}": table(tokens) for i, table in model.value_embeds.items()}
    given = model.forward(Stream(stream.x, None, side), NoCache(model.spec))
    torch.testing.assert_close(given, model.forward(stream, NoCache(model.spec)))


def test_the_fingerprint_follows_the_weights():
    model = toy_model(seed=1)
    before = model.spec.fingerprint
    assert before == toy_model(seed=1).spec.fingerprint != toy_model(seed=2).spec.fingerprint
    model.transformer.wte.weight.data.mul_(2)
    model.lm_head.weight += 1
    assert model.spec.fingerprint != before


def test_weights_cast_for_inference_stay_close():
    tokens = toy_tokens(30)
    exact, rounded = full_logits(toy_model(), tokens), full_logits(toy_model(dtype=torch.bfloat16), tokens)
    assert rounded.dtype == torch.float32
    assert (exact - rounded).abs().mean() < 0.15
    assert toy_model(dtype=torch.bfloat16).resid_lambdas.dtype == torch.float32


@pytest.mark.parametrize("generation", GENERATIONS)
def test_training_reaches_every_parameter(generation):
    model = toy_model(generation).requires_grad_(True)
    idx = ids(model, toy_tokens(20), toy_tokens(20, seed=1))
    model(idx[:, :-1], idx[:, 1:]).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_targets_of_minus_one_do_not_count():
    model = toy_model()
    idx = ids(model, toy_tokens(6))
    targets = torch.tensor([[3, -1, 4, -1, -1, 5]])
    each = model(idx, targets, loss_reduction="none")
    assert (each == 0).tolist() == [False, True, False, True, True, False]
    torch.testing.assert_close(model(idx, targets, loss_reduction="sum"), each.sum())
    torch.testing.assert_close(model(idx, targets), each.sum() / 3)


def test_a_cache_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="dict"):
        toy_model()(torch.tensor([[1]]), kv_cache={})


def test_parameters_are_counted_by_role():
    model = build("G4")
    counts = model.num_scaling_params()
    assert counts["total"] == sum(p.numel() for p in model.parameters())
    assert counts["wte"] == counts["lm_head"] == 128 * 32
    assert counts["value_embeds"] == 2 * 128 * 16
    assert counts["scalars"] == 3 + 3 + 24 + 1 + 1
    assert model.num_matmul_params() == counts["lm_head"] + counts["transformer_matrices"]


def test_costs_follow_windows_and_context():
    model = toy_model("G2", sequence_len=64, window_pattern="SL", n_layer=2)  # windows 32 and 64
    matrices = model.num_matmul_params()
    assert model.estimate_flops() == 6 * matrices + 12 * 64 * (32 + 64)
    assert model.estimate_decode_flops(10) == 2 * matrices + 4 * 64 * 20
    assert model.estimate_decode_flops(1000) == 2 * matrices + 4 * 64 * (32 + 64)
    assert model.estimate_prefill_flops(3) == 3 * 2 * matrices + 4 * 64 * 2 * (1 + 2 + 3)
    assert model.kv_bytes_per_token() == 2 * 2 * 2 * 16 * 4
    assert model.kv_read_bytes(40) == (32 + 40) * 2 * 2 * 16 * 4


def test_upstreams_rotation_turns_by_minus_the_angle():
    x = torch.randn(1, 3, 2, 4)
    angle = torch.rand(1, 3, 1, 2)
    turned = gpt.apply_rotary_emb(x, angle.cos(), angle.sin())
    expected = torch.view_as_complex(torch.stack(x.chunk(2, -1), -1)) * torch.exp(-1j * angle)
    torch.testing.assert_close(torch.cat([expected.real, expected.imag], -1), turned)


def test_hidden_rows_carry_over_between_passes_only_where_there_is_smear():
    for generation, expected in (("G3", False), ("G4", True)):
        model = toy_model(generation)
        cache = DenseCache(model.spec)
        run(model, cache, ids(model, [1, 2, 3]))
        assert (cache.carry is not None) is expected
