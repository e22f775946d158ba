"""Checkpoints: every generation comes back, in every layout, and a wrong file is refused by the name of its key."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from nanochat import checkpoint_manager as manager
from nanochat.generations import G0, G2, G2S20, G4, GENERATIONS, Generation
from nanochat.gpt import GPT, GPTConfig
from nanochat.tokenizer import RustBPETokenizer

VOCAB = 300
SIZES = {"sequence_len": 64, "vocab_size": VOCAB, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 64}
TEXTS = ["The cat sat on the mat; it's 12345 o'clock.\n\n  a=1+22*333;\n", "naïve café 你好 🙂 <|bos|>"] * 5
IDS = torch.arange(20)[None] * 7 % VOCAB


@pytest.fixture(scope="module")
def tokenizer() -> RustBPETokenizer:
    return RustBPETokenizer.train_from_iterator(TEXTS, VOCAB)


@pytest.fixture
def base(tmp_path, monkeypatch, tokenizer) -> Path:
    """An empty base folder with a tokenizer."""
    for name in ("NANOCHAT_EXPERIMENT", "NANOCHAT_EXPERIMENTS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    tokenizer.save(tmp_path / "tokenizer")
    return tmp_path


def make(generation: Generation = G4, seed: int = 0, pad: int = 64, **sizes) -> GPT:
    """A model with no weight at zero, so that every constant of its generation shows in its logits."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**{**SIZES, "window_pattern": "SL", **sizes}), pad, generation=generation)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.2)
    return model.eval()


def save(folder: Path, model: GPT, step: int = 5, **meta) -> Path:
    manager.save_checkpoint(folder, step, model.state_dict(), None, manager.meta_of(model, step=step, **meta))
    return folder


def logits(model: GPT) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS)


def edit_meta(folder: Path, **changes) -> None:
    """Change keys of the only meta file; None takes a key away."""
    (path,) = folder.glob("meta_*.json")
    meta = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))


@pytest.mark.parametrize("name", GENERATIONS)
def test_every_generation_comes_back_with_its_logits(base, name):
    model = make(GENERATIONS[name])
    save(base / "base_checkpoints" / "d2", model, val_bpb=1.5)
    loaded, tokenizer, meta = manager.load_model("base", "cpu", "eval")
    assert loaded.generation.name == meta["generation"] == name
    assert meta["val_bpb"] == 1.5
    assert torch.equal(logits(loaded), logits(model))
    assert tokenizer.get_vocab_size() == VOCAB
    assert not loaded.training


@pytest.mark.parametrize("name", ["G0", "G1", "G2", "G3", "G4"])
def test_a_file_of_upstream_says_no_generation_and_its_weights_tell(base, name):
    folder = save(base / "base_checkpoints" / "d2", make(GENERATIONS[name]))
    edit_meta(folder, generation=None)
    loaded, _, _ = manager.load_model("base", "cpu", "train")
    assert loaded.generation.name == name
    assert loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_softcap_that_weights_cannot_show_is_told_by_meta_or_by_argument(base):
    model = make(G2S20)
    folder = save(base / "base_checkpoints" / "d2", model)
    assert torch.equal(logits(manager.load_model("base", "cpu", "eval")[0]), logits(model))
    edit_meta(folder, generation=None)
    assert manager.load_model("base", "cpu", "eval")[0].generation is G2
    assert torch.equal(logits(manager.load_model("base", "cpu", "eval", generation="g2s20")[0]), logits(model))
    with pytest.raises(ValueError, match="unknown generation 'G9'; choose one of G0"):
        manager.load_model("base", "cpu", "eval", generation="G9")


def test_what_is_written_is_what_upstream_reads(base):
    model = make()
    folder = save(base / "base_checkpoints" / "d2", model)
    assert sorted(os.listdir(folder)) == ["meta_000005.json", "model_000005.pt"]
    meta = json.loads((folder / "meta_000005.json").read_text())
    assert meta["model_config"] == asdict(model.config)
    state = torch.load(folder / "model_000005.pt", weights_only=True)
    assert state.keys() == model.state_dict().keys()
    assert "window_pattern" not in manager.meta_of(make(G0))["model_config"]  # G0's GPTConfig did not know it


def test_compile_prefixes_are_stripped_and_bfloat16_is_widened_on_the_cpu(base):
    model = make()
    state = {f"_orig_mod.{name}": tensor.bfloat16() for name, tensor in model.state_dict().items()}
    folder = base / "chatsft_checkpoints" / "d2"
    save(folder, model)
    torch.save(state, folder / "model_000005.pt")
    loaded, _, _ = manager.load_model("sft", "cpu", "eval")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    narrow = model.lm_head.weight.bfloat16().float()
    assert torch.equal(loaded.lm_head.weight, narrow)


@pytest.mark.parametrize("pad", [1, 7, 64, 512])
def test_any_padding_of_the_vocabulary_is_read_from_the_weights(base, pad):
    model = make(G0, pad=pad)
    save(base / "base_checkpoints" / "d2", model)
    loaded, _, _ = manager.load_model("base", "cpu", "eval")
    assert loaded.lm_head.weight.shape[0] == -(-VOCAB // pad) * pad
    assert torch.equal(logits(loaded), logits(model))


def test_a_missing_window_pattern_is_long(base):
    model = make(GENERATIONS["G1"], window_pattern="L")
    folder = save(base / "base_checkpoints" / "d2", model)
    edit_meta(folder, model_config=SIZES)
    assert torch.equal(logits(manager.load_model("base", "cpu", "eval")[0]), logits(model))


# Where they lie -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("base", "base_checkpoints/d2"),
        ("mid", "mid_checkpoints/d2"),
        ("sft", "chatsft_checkpoints/d2"),
        ("rl", "chatrl_checkpoints/d2"),
        ("base", "experiments/default/d2/base"),
        ("rl", "experiments/default/d2/rl"),
    ],
)
def test_each_source_is_found_in_both_layouts(base, source, folder):
    model = make()
    save(base / folder, model)
    assert torch.equal(logits(manager.load_model(source, "cpu", "eval", model_tag="d2")[0]), logits(model))
    assert torch.equal(logits(manager.load_model(source, "cpu", "eval")[0]), logits(model))


def test_an_experiment_brings_its_own_tokenizer_and_goes_first_when_asked(base, monkeypatch, tokenizer):
    ours, other = make(seed=1), make(seed=2)
    save(base / "base_checkpoints" / "d2", other)
    save(base / "elsewhere" / "exp" / "d2" / "base", ours)
    shutil.rmtree(base / "tokenizer")
    tokenizer.save(base / "elsewhere" / "exp" / "tokenizer")
    monkeypatch.setenv("NANOCHAT_EXPERIMENTS_DIR", str(base / "elsewhere"))
    monkeypatch.setenv("NANOCHAT_EXPERIMENT", "exp")
    assert torch.equal(logits(manager.load_model("base", "cpu", "eval")[0]), logits(ours))


def test_a_bare_folder_is_loaded_by_its_path(base, tmp_path):
    model = make()
    save(tmp_path / "bare", model)
    assert torch.equal(logits(manager.load_model(tmp_path / "bare", "cpu", "eval")[0]), logits(model))
    assert torch.equal(logits(manager.load_model_from_dir(str(tmp_path / "bare"), "cpu", "eval")[0]), logits(model))


def test_the_largest_model_and_the_last_step_are_the_default(base):
    for tag in ("d2", "d10", "d4", "notes"):
        save(base / "base_checkpoints" / tag, make(), step=3)
    last = make(seed=9)
    save(base / "base_checkpoints" / "d10", last, step=12)
    assert manager.find_largest_model(str(base / "base_checkpoints")) == "d10"
    assert manager.find_last_step(str(base / "base_checkpoints" / "d10")) == 12
    assert torch.equal(logits(manager.load_model_from_dir(base / "base_checkpoints", "cpu", "eval")[0]), logits(last))
    assert manager.load_model("base", "cpu", "eval", "d4", 3)[2]["step"] == 3


def test_without_a_depth_in_the_names_the_latest_is_the_default(tmp_path):
    for age, tag in enumerate(("new", "old")):
        (tmp_path / tag).mkdir()
        os.utime(tmp_path / tag, (1_000_000 - age, 1_000_000 - age))
    assert manager.find_largest_model(tmp_path) == "new"


def test_what_is_not_there_is_named(base):
    with pytest.raises(FileNotFoundError, match=r"no sft checkpoint .*chatsft_checkpoints or .*experiments"):
        manager.load_model("sft", "cpu", "eval")
    with pytest.raises(FileNotFoundError, match=r"no model_<step>\.pt in"):
        manager.find_last_step(base)
    folder = save(base / "base_checkpoints" / "d2", make())
    with pytest.raises(FileNotFoundError, match=r"meta_000007\.json is missing"):
        manager.load_model("base", "cpu", "eval", step=7)
    shutil.rmtree(base / "tokenizer")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json or tokenizer\.pkl in"):
        manager.build_model(folder, 5, "cpu", "eval")
    with pytest.raises(ValueError, match="phase must be train or eval"):
        manager.build_model(folder, 5, "cpu", "test")


def test_meta_of_reinforcement_learning_has_no_step(base):
    model = make()
    folder = base / "chatrl_checkpoints" / "d2"
    manager.save_checkpoint(folder, 466, model.state_dict(), None, {"model_config": asdict(model.config)})
    loaded, _, meta = manager.load_model("rl", "cpu", "eval")
    assert "step" not in meta
    assert meta["generation"] == "G4"  # worked out when it was written
    assert torch.equal(logits(loaded), logits(model))


def test_optimizer_states_are_by_rank_and_g0_had_one_for_all(base):
    model, folder = make(), base / "base_checkpoints" / "d2"
    for rank in (1, 0):
        state = {"rank": rank, "moment": torch.ones(2)}
        manager.save_checkpoint(folder, 5, model.state_dict(), state, manager.meta_of(model), rank=rank)
    assert manager.load_optimizer_state("base", "cpu", 1)["rank"] == 1
    assert manager.load_checkpoint(folder, 5, "cpu", load_optimizer=True)[1]["rank"] == 0
    assert manager.load_optimizer_state("base", "cpu", 2) is None
    torch.save([{"a": 1}, {"b": 2}], folder / "optim_000005.pt")
    assert manager.load_optimizer_state("base", "cpu", 2) == [{"a": 1}, {"b": 2}]


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s.pop("lm_head.weight"), r"is no G4 checkpoint: missing 'lm_head.weight'"),
        (lambda s: s.update(extra=torch.ones(1)), r"is no G4 checkpoint: unexpected 'extra'"),
        (lambda s: s.update({"lm_head.weight": torch.ones(320, 32)}), r"'lm_head.weight' has shape \(320, 32\), exp"),
        (lambda s: s.update({"smear_lambda": torch.ones(1, dtype=torch.int64)}), r"'smear_lambda' is of torch.int64"),
        (lambda s: s.update({"smear_lambda": torch.ones(1).to_sparse()}), r"'smear_lambda' is not a dense tensor"),
        (lambda s: s.update({"lm_head.weight": torch.ones(1).expand(320, 64)}), r"'lm_head.weight' is not contiguous"),
        (lambda s: s.update({"smear_lambda": 3}), r"'smear_lambda' is no tensor, but a int"),
        (lambda s: s.update({"_orig_mod.smear_lambda": torch.ones(1)}), r"'smear_lambda' is there twice"),
        (lambda s: s.update({"transformer.wte.weight": torch.ones(200, 64)}), r"has 200 rows, vocab_size is 300"),
        (lambda s: s.clear(), r"n_layer is 2, the weights have 0 layers"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_key(base, change, complaint):
    model = make()
    folder = save(base / "base_checkpoints" / "d2", model)
    state = dict(model.state_dict())
    change(state)
    torch.save(state, folder / "model_000005.pt")
    with pytest.raises(ValueError, match=complaint):
        manager.load_model("base", "cpu", "eval")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_config": None}, "has no model_config"),
        ({"model_config": {**SIZES, "rotary": 1}}, "unknown model_config key 'rotary'; known are sequence_len"),
        ({"model_config": {**SIZES, "n_layer": 10**9}}, "n_layer is 1000000000, the weights have 2 layers"),
        ({"model_config": {**SIZES, "n_embd": "64"}}, "n_embd must be a positive integer, got '64'"),
        ({"model_config": {**SIZES, "n_embd": 1 << 31}}, "is 64 wide, n_embd is 2147483648"),
        ({"model_config": {**SIZES, "window_pattern": 16}}, "window_pattern must be made of S and L, got 16"),
        ({"model_config": {**SIZES, "vocab_size": 299}}, "size 300 does not match model config vocab size 299"),
        ({"generation": "G0"}, "is no G0 checkpoint: unexpected"),
    ],
)
def test_a_meta_that_does_not_fit_is_refused(base, changes, complaint):
    edit_meta(save(base / "base_checkpoints" / "d2", make()), **changes)
    with pytest.raises(ValueError, match=complaint):
        manager.load_model("base", "cpu", "eval")


class Touch:
    def __reduce__(self):
        return os.system, ("touch PWNED",)


def test_a_hostile_weights_file_runs_nothing(base, monkeypatch):
    monkeypatch.chdir(base)
    folder = save(base / "base_checkpoints" / "d2", make())
    for junk in (Touch(), {"lm_head.weight": Touch()}):
        torch.save(junk, folder / "model_000005.pt")
        with pytest.raises(ValueError, match="cannot be read as plain weights"):
            manager.load_model("base", "cpu", "eval")
    (folder / "model_000005.pt").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ValueError, match="cannot be read as plain weights"):
        manager.load_model("base", "cpu", "eval")
    assert not (base / "PWNED").exists()


def test_a_crash_while_saving_leaves_the_old_checkpoint(base, monkeypatch):
    old = make(seed=1)
    folder = save(base / "base_checkpoints" / "d2", old)
    before = sorted(os.listdir(folder))

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        manager.save_checkpoint(folder, 6, make(seed=2).state_dict(), {"a": 1}, manager.meta_of(old))
    monkeypatch.undo()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    assert sorted(os.listdir(folder)) == before
    assert torch.equal(logits(manager.load_model("base", "cpu", "eval")[0]), logits(old))
