"""Is this state dict what its meta says? Checked before a single weight is used; every error names the key.

Also where a checkpoint's generation and padded vocabulary are worked out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from nanochat.generations import Generation, detect, named
from nanochat.gpt import GPT, GPTConfig

COMPILE_PREFIX = "_orig_mod."
WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def clean_state(data: Any, where: str, *, widen: bool) -> dict[str, Tensor]:
    """Strip compile prefixes, refuse what is no plain dense tensor, and with `widen` turn bfloat16 into float32.

    Raises ValueError naming the key.
    """
    if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
        raise ValueError(f"{where} holds no state dict, but a {type(data).__name__}")
    state: dict[str, Tensor] = {}
    for raw, tensor in data.items():
        name = raw.replace(COMPILE_PREFIX, "")
        if name in state:
            raise ValueError(f"{where}: key {name!r} is there twice, with and without {COMPILE_PREFIX!r}")
        _check_tensor(f"{where}: key {name!r}", tensor)
        state[name] = tensor.float() if widen and tensor.dtype == torch.bfloat16 else tensor
    return state


def _check_tensor(label: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{label} is no tensor, but a {type(tensor).__name__}")
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise ValueError(f"{label} is not a dense tensor (layout {tensor.layout})")
    if tensor.dtype not in WEIGHT_DTYPES:
        raise ValueError(f"{label} is of {tensor.dtype}; weights are float32, bfloat16 or float16")
    if not tensor.is_contiguous():  # strides can make a small file claim a huge tensor
        raise ValueError(f"{label} is not contiguous (strides {tensor.stride()}); save it with .contiguous()")


def config_of(meta: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> GPTConfig:
    """The model's sizes, by its meta, with the patch that files before sliding windows need.

    Raises ValueError if meta lacks them, has unknown ones, or if layers and vocabulary are not those of the weights:
    checked here, so that a wrong number builds no giant model.
    """
    values = meta.get("model_config")
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} has no model_config: the head width cannot be told from the weights alone")
    numbers = [field.name for field in fields(GPTConfig) if field.name != "window_pattern"]
    for name in numbers:
        if name in values and (type(values[name]) is not int or values[name] <= 0):
            raise ValueError(f"{where}: model_config.{name} must be a positive integer, got {values[name]!r}")
    pattern = values.get("window_pattern", "L")
    if not isinstance(pattern, str) or not pattern or set(pattern.upper()) - {"S", "L"}:
        raise ValueError(f"{where}: model_config.window_pattern must be made of S and L, got {pattern!r}")
    config = GPTConfig.from_dict({"window_pattern": "L", **values})
    layers = sum(name.endswith(".attn.c_q.weight") for name in state)
    if layers != config.n_layer:
        raise ValueError(f"{where}: model_config.n_layer is {config.n_layer}, the weights have {layers} layers")
    return config


def generation_of(
    state: Mapping[str, Tensor], meta: Mapping[str, Any], override: str | Generation | None
) -> Generation:
    """`override`, else meta's "generation", else what the state dict shows. Raises ValueError for an unknown one."""
    if isinstance(override, Generation):
        return override
    name = override if override is not None else meta.get("generation")
    return detect(state) if name is None else named(str(name))


def empty_model(config: GPTConfig, state: Mapping[str, Tensor], generation: Generation, where: str) -> GPT:
    """A model on the meta device with as many vocabulary rows as the weights have, which need no multiple of 64."""
    wte = state.get("transformer.wte.weight")
    if wte is None or wte.dim() != 2:
        raise ValueError(f"{where}: key 'transformer.wte.weight' is missing or no matrix: this is no nanochat GPT")
    if wte.shape[0] < config.vocab_size:
        raise ValueError(
            f"{where}: 'transformer.wte.weight' has {wte.shape[0]} rows, vocab_size is {config.vocab_size}"
        )
    if wte.shape[1] != config.n_embd:  # checked here, so that a wrong number builds no giant model
        raise ValueError(f"{where}: 'transformer.wte.weight' is {wte.shape[1]} wide, n_embd is {config.n_embd}")
    with torch.device("meta"):
        return GPT(config, pad_vocab_size_to=wte.shape[0], generation=generation)


def check_fit(state: Mapping[str, Tensor], model: GPT, where: str) -> None:
    """Names and shapes must be the model's own. Raises ValueError listing the keys that are not."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    kind = f"{where} is no {model.generation.name} checkpoint"
    missing, surplus = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing:
        raise ValueError(f"{kind}: missing {_some(missing)}")
    if surplus:
        raise ValueError(f"{kind}: unexpected {_some(surplus)}")
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise ValueError(f"{kind}: key {name!r} has shape {tuple(state[name].shape)}, expected {shape}")


def _some(names: Iterable[str], most: int = 4) -> str:
    ordered = sorted(names)
    rest = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(repr(name) for name in ordered[:most]) + rest
