"""What a memory must know of a GPT: its ModelSpec, made once and again when the weights move or change."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nanochat.hook import ModelSpec
from nanochat.rotary import Angles, Rotary

if TYPE_CHECKING:
    from nanochat.gpt import GPT

TINY = 1e-30  # a zero vector stays zero
SAMPLES = 4096  # values of a parameter that enter the fingerprint, evenly spread


class KeyRotation(Rotary):
    """Rotary tables of a generation; a rotation keeps each vector's length.

    That is what lets a key be normalised before it is rotated. Tables rounded to bf16 (G0 to G2) stretch a vector by
    up to 0.4 %; upstream normalises after rotating and so takes that back, and so does this.
    """

    def rotate(self, x: Tensor, angles: Angles) -> Tensor:
        turned = super().rotate(x, angles)
        if self.rounding is None:
            return turned
        wide = turned.float()
        stretch = x.float().square().sum(-1, keepdim=True) / wide.square().sum(-1, keepdim=True).clamp_min(TINY)
        return (wide * stretch.sqrt()).to(x.dtype)


class SpecCache:
    """The spec of one model. The fingerprint is left out where nobody asks for it: training changes it every step."""

    def __init__(self) -> None:
        self._spec: ModelSpec | None = None
        self._place: tuple[object, ...] = ()
        self._fingerprint = ""
        self._version: tuple[object, ...] = ()

    def get(self, model: GPT, *, fingerprint: bool = True) -> ModelSpec:
        place = (model.get_device(), model.compute_dtype)
        if self._spec is None or place != self._place:
            self._spec, self._place = _spec(model), place
        if not fingerprint:
            return self._spec
        version = weights_version(model)
        if version != self._version:
            self._fingerprint, self._version = weights_fingerprint(model), version
        if self._spec.fingerprint != self._fingerprint:
            self._spec = replace(self._spec, fingerprint=self._fingerprint)
        return self._spec


def _spec(model: GPT) -> ModelSpec:
    config, device = model.config, model.get_device()
    return ModelSpec(
        family="nanochat",
        layers=config.n_layer,
        heads=config.n_head,
        kv_heads=config.n_kv_head,
        head_dim=config.head_dim,
        width=config.n_embd,
        vocab=config.vocab_size,
        max_position=config.sequence_len,
        rotation=KeyRotation.of_base(
            config.head_dim,
            model.generation.rope_base,
            sign=-1,
            dtype=model.compute_dtype,
            rounding=model.generation.table_rounding,
            device=device,
            length=min(config.sequence_len, 1024),
        ),
        dtype=model.compute_dtype,
        device=device,
        windows=model.windows,
        memory_layers=tuple(
            i for i, window in enumerate(model.windows) if window is None or window >= config.sequence_len
        ),
    )


def weights_version(model: torch.nn.Module) -> tuple[object, ...]:
    """Changes whenever a parameter is replaced or written to in place. Cheap."""
    return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters() if not p.is_meta)


def weights_fingerprint(model: GPT) -> str:
    """Identifies the weights: 32 hex digits over sizes, generation, and evenly spread values of every parameter."""
    digest = hashlib.blake2b(f"{model.config}{model.generation}".encode(), digest_size=16)
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        if not parameter.is_meta:
            flat = parameter.detach().flatten()
            sample = flat[:: max(1, flat.numel() // SAMPLES)].double()
            digest.update(sample.cpu().numpy().tobytes())
    return digest.hexdigest()
