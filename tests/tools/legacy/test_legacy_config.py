"""The earlier configuration files: both their forms, their defaults, and what is said of a mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megacontext.config import TelemetryConfig
from megacontext.config_loader import parse_override, print_config
from megacontext.errors import ConfigError
from tools.legacy.config import Decode, LegacyConfig, load_legacy

ROOT = Path(__file__).resolve().parents[3]
SAMPLE, GUTENBERG = ROOT / "configs" / "SampleText_TinyGPT2.yaml", ROOT / "configs" / "Gutenberg_SmolLM3.yaml"


def read(folder: Path, text: str, name: str = "old.yaml", **environ: str) -> LegacyConfig:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return load_legacy(file, environ=environ).config


def refusal(folder: Path, text: str, name: str = "old.yaml") -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, name).decode  # noqa: B018
    return str(caught.value)


def test_the_sample_file_says_what_it_always_said() -> None:
    config = load_legacy(SAMPLE, environ={}).config
    assert config.decode == Decode(
        model_name="sshleifer/tiny-gpt2",
        torch_dtype="float32",
        device="cpu",
        run_name="sample-text-demo",
        prompt="MegaContext compresses history into reusable gists. Summarise this idea in a sentence.\n",
        max_new_tokens=32,
        do_sample=False,
        temperature=0.7,
    )
    assert config.dataset is not None
    assert (config.dataset.block_size, config.dataset.context_tokens, config.dataset.stride) == (4, 32, 16)
    assert config.gistnet is not None
    phase = config.gistnet.training.phases[0]
    assert (phase.name, phase.objective, phase.max_steps, phase.window_tokens, phase.lr) == (
        "pooling-pretrain",
        "pooling_mse",
        50,
        32,
        1e-3,
    )


def test_the_gutenberg_file_says_what_it_always_said() -> None:
    config = load_legacy(GUTENBERG, environ={}).config
    assert config.decode.model_name == "HuggingFaceTB/SmolLM2-360M-Instruct"
    assert (config.decode.torch_dtype, config.decode.device, config.decode.max_new_tokens) == ("auto", "cuda", 64)
    assert config.dataset is not None
    assert config.dataset.splits["train"].max_files == 200
    assert config.gistnet is not None
    assert [(p.objective, p.max_steps, p.lr) for p in config.gistnet.training.phases] == [
        ("pooling_mse", 2000, 1e-3),
        ("delta_nll", 1000, 5e-4),
    ]


def test_a_file_that_names_a_model_and_nothing_else_has_the_earlier_defaults(tmp_path: Path) -> None:
    decode = read(tmp_path, "base_model:\n  name: a/b\n").decode
    assert decode == Decode("a/b", "bfloat16", "auto", False, {}, "base_llm_demo", "MegaContext is ", 32, False, 0.7)
    assert decode.wandb_project == "megacontext-poc"


def test_the_flat_form_is_read_like_the_nested_one(tmp_path: Path) -> None:
    flat = "model_name: a/b\nprompt: hello\nmax_new_tokens: 5\ntorch_dtype: float16\ndevice: null\n"
    nested = "base_model:\n  name: a/b\n  prompt: hello\n  max_new_tokens: 5\n  torch_dtype: float16\n"
    assert read(tmp_path, flat).decode == read(tmp_path, nested).decode


def test_what_base_model_leaves_out_comes_from_the_top_of_the_file(tmp_path: Path) -> None:
    text = "prompt: top\ntemperature: 1\ndo_sample: true\nbase_model:\n  name: a/b\n  temperature: 0.5\n"
    decode = read(tmp_path, text).decode
    assert (decode.prompt, decode.temperature, decode.do_sample) == ("top", 0.5, True)


def test_a_key_without_a_value_counts_as_missing(tmp_path: Path) -> None:
    text = "prompt: top\nbase_model:\n  name: a/b\n  prompt: null\n  max_new_tokens:\n  torch_dtype: ~\n"
    decode = read(tmp_path, text).decode
    assert (decode.prompt, decode.max_new_tokens, decode.torch_dtype) == ("top", 32, "bfloat16")


@pytest.mark.parametrize("name", ["old.yml", "old.json", "old.YAML"])
def test_yaml_and_json_are_read(tmp_path: Path, name: str) -> None:
    values: dict[str, Any] = {
        "base_model": {"name": "a/b", "prompt": "h\u00e9 \U0001f600\n"},
        "memory": {"budget": 448},
    }
    config = read(tmp_path, json.dumps(values, indent="\t" if name.endswith("json") else 2, ensure_ascii=False), name)
    assert config.decode.prompt == "h\u00e9 \U0001f600\n"
    assert config.memory.budget == 448


def test_another_extension_is_refused(tmp_path: Path) -> None:
    assert "Unsupported config extension: .toml" in refusal(tmp_path, "name = 1", "old.toml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("description: none\n", "the file names no model; set base_model.name"),
        ("model_name: a/b\nbase_model:\n  name: c/d\n", "more than one model: a/b, c/d"),
        ("base_model:\n  nmae: a/b\n", "old.yaml:2: unknown key base_model.nmae. Did you mean base_model.name?"),
        ("base_model:\n  torch_dtype: int8\n", "old.yaml:2: base_model.torch_dtype"),
        ("base_model:\n  device: cuda:7\n", "old.yaml:2: base_model.device"),
        ("base_model:\n  max_new_tokens: 0\n", "old.yaml:2: base_model.max_new_tokens"),
        (
            "gistnet:\n  training:\n    phases:\n      - objectiv: x\n",
            "Did you mean gistnet.training.phases.0.objective?",
        ),
        ("gistnet:\n  model:\n    hidden_size: 10\n    num_heads: 3\n", "hidden_size must be divisible by num_heads"),
        (
            "dataset:\n  dataset_name: x\n  splits:\n    train:\n      sorce: a\n",
            "old.yaml:5: unknown key dataset.splits",
        ),
        ("memory:\n  budgte: 3\n", "Did you mean memory.budget?"),
        ("demo:\n  corpus_tokens: -1\n", "old.yaml:2: demo.corpus_tokens"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in refusal(tmp_path, text)


def test_the_wandb_project_is_base_models_unless_telemetry_names_one(tmp_path: Path) -> None:
    text = "base_model:\n  name: a/b\n  wandb_project: mine\n"
    assert read(tmp_path, text).recorded.wandb_project == "mine"
    assert read(tmp_path, text + "telemetry:\n  wandb_project: ours\n").recorded.wandb_project == "ours"
    assert read(tmp_path, "model_name: a/b\n").recorded.wandb_project == TelemetryConfig().wandb_project


def test_variables_and_flags_reach_base_model(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("base_model:\n  name: a/b\n  prompt: file\n", encoding="utf-8")
    override = {"base_model.temperature": parse_override(LegacyConfig, "base_model.temperature", "0.2", "flag --set")}
    loaded = load_legacy(file, environ={"MEGACONTEXT_BASE_MODEL_PROMPT": "environment"}, overrides=override)
    assert (loaded.config.decode.prompt, loaded.config.decode.temperature) == ("environment", 0.2)
    assert "temperature: 0.2  # flag --set" in print_config(loaded)


def test_a_file_without_a_memory_section_suits_a_model_of_a_thousand_positions(tmp_path: Path) -> None:
    for text in ("model_name: a/b\n", "model_name: a/b\nmemory:\n  read_chunk: 16\n"):
        memory = read(tmp_path, text).memory
        assert memory.least_budget <= memory.budget <= 1024 - memory.read_chunk


def test_every_key_of_ours_is_documented() -> None:
    for section in (LegacyConfig, *(LegacyConfig.model_fields[n].annotation for n in ("base_model", "memory", "demo"))):
        for name, field in section.model_fields.items():
            assert field.description, name
