"""Initial weights, by the recipe of each generation. Works after `to_empty`: every parameter is written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn as nn

if TYPE_CHECKING:
    from nanochat.gpt import GPT
    from nanochat.gpt_block import Block


@torch.no_grad()
def init_weights(model: GPT) -> None:
    """Draw from torch's global generator. Embeddings then take the compute dtype, unless that is float16."""
    if model.generation.init == "normal":
        _normal(model)
    else:
        _uniform(model)
    if model.compute_dtype != torch.float16:
        embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding)]
        for embedding in embeddings:
            embedding.to(dtype=model.compute_dtype)


def _normal(model: GPT) -> None:
    """G0: fan-in normal with a limit for wide inputs; the head and every output projection start at zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            out_features, in_features = module.weight.shape
            nn.init.normal_(module.weight, std=min(1.0, math.sqrt(out_features / in_features)) / math.sqrt(in_features))
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0)
    nn.init.zeros_(model.lm_head.weight)
    for block in model.transformer.blocks:
        nn.init.zeros_(block.attn.c_proj.weight)
        nn.init.zeros_(block.mlp.c_proj.weight)


def _uniform(model: GPT) -> None:
    """G1 on: uniform matrices of the same variance as 1 / sqrt(D), a small head, output projections zero."""
    graded = model.generation.init == "graded"
    bound = math.sqrt(3.0 / model.config.n_embd)
    nn.init.normal_(model.transformer.wte.weight, std=0.8 if graded else 1.0)
    nn.init.normal_(model.lm_head.weight, std=0.001)
    for block in model.transformer.blocks:
        _block(block, bound, 0.4 * bound if graded else bound)
    if model.generation.lambdas:
        _lambdas(model, graded)
    if model.generation.gate_channels:
        for weight in model.value_embeds.parameters():
            nn.init.uniform_(weight, -bound, bound)
        _gates(model, 0.02 if graded else 0.0)
    if model.generation.smear:
        nn.init.uniform_(model.smear_gate.weight, 0.0, 0.02)
        nn.init.zeros_(model.smear_lambda)
        nn.init.constant_(model.backout_lambda, 0.2)


def _block(block: Block, bound: float, fc_bound: float) -> None:
    for matrix in (block.attn.c_q, block.attn.c_k, block.attn.c_v):
        nn.init.uniform_(matrix.weight, -bound, bound)
    nn.init.uniform_(block.mlp.c_fc.weight, -fc_bound, fc_bound)
    nn.init.zeros_(block.attn.c_proj.weight)
    nn.init.zeros_(block.mlp.c_proj.weight)


def _lambdas(model: GPT, graded: bool) -> None:
    """G4 lets both fall with depth; before, each layer started alike."""
    layers = model.config.n_layer
    for i in range(layers):
        depth = i / max(layers - 1, 1)
        model.resid_lambdas[i] = 1.15 - 0.10 * depth if graded else 1.0
        model.x0_lambdas[i] = 0.20 - 0.15 * depth if graded else 0.1


def _gates(model: GPT, high: float) -> None:
    for block in model.transformer.blocks:
        if hasattr(block.attn, "ve_gate"):
            nn.init.uniform_(block.attn.ve_gate.weight, 0.0, high)
