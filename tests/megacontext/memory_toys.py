"""Small models, configurations and pages for the tests of the memory."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch

from megacontext.arena import Page
from megacontext.cache import ContextCache
from megacontext.config import MemoryConfig
from megacontext.focus.base import Moment, Scorer, Scores
from megacontext.models.gpt2 import GPT2, GPT2Config
from megacontext.models.llama import Llama, LlamaConfig
from megacontext.testing.toy import ToyWeights, ids, run, toy_model
from nanochat.hook import BaseModel, ModelSpec

SMALL = {"n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": 32, "vocab_size": 64}
VOCAB = SMALL["vocab_size"]


def small_model(generation: str = "G0", *, seed: int = 0, **sizes: Any) -> BaseModel:
    """A nanochat GPT of two layers; G0 has no windows."""
    return toy_model(generation, seed=seed, **{**SMALL, "sequence_len": 512, **sizes})


def small_config(**changes: Any) -> MemoryConfig:
    """Blocks of 4, a budget of 48 slots; what a release may tune stands here, so that tests do not change with it."""
    settings = {
        "budget": 48,
        "block": 4,
        "recent_tokens": 12,
        "read_chunk": 6,
        "far_blocks": 4,
        "prompt_blocks": 2,
        "reread_tokens": 8,
        "position_slack": 16,
        "prompt_recent_tokens": 0,
        "prompt_sharpness": 0.7,
        "prompt_near": True,
        "prompt_fill": False,
        "tick_tokens": 1,
    }
    known = {name: value for name, value in settings.items() if name in MemoryConfig.model_fields}
    return MemoryConfig(**{**known, **changes})


def random_page(spec: ModelSpec, rows: int, seed: int) -> Page:
    """Keys and values (L, Hk, rows, d)."""
    rng = torch.Generator().manual_seed(seed)
    shape = (len(spec.memory_layers), spec.kv_heads, rows, spec.head_dim)
    return Page(torch.randn(shape, generator=rng), torch.randn(shape, generator=rng))


def small_llama(seed: int = 0, max_position: int = 512) -> Llama:
    """Two layers, four query heads on two KV heads, random weights that matter."""
    config = LlamaConfig(
        vocab=VOCAB,
        width=32,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=8,
        inner=48,
        eps=1e-5,
        max_position=max_position,
        frequencies=tuple(10_000.0 ** (-j / 4) for j in range(4)),
    )
    return Llama(config, RandomWeights(config, seed), dtype=torch.float32)


class RandomWeights(ToyWeights):
    """Implements `Weights`: normal numbers, fixed by the seed; norms are 1."""

    def __init__(self, config: LlamaConfig, seed: int) -> None:
        width, query, key = config.width, config.heads * config.head_dim, config.kv_heads * config.head_dim
        layer = {
            "self_attn.q_proj": (query, width),
            "self_attn.k_proj": (key, width),
            "self_attn.v_proj": (key, width),
            "self_attn.o_proj": (width, query),
            "mlp.gate_proj": (config.inner, width),
            "mlp.up_proj": (config.inner, width),
            "mlp.down_proj": (width, config.inner),
        }
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (config.vocab, width),
            "model.norm.weight": (width,),
        }
        for index in range(config.layers):
            at = f"model.layers.{index}"
            shapes |= {f"{at}.{name}.weight": shape for name, shape in layer.items()}
            shapes |= {f"{at}.{name}.weight": (width,) for name in ("input_layernorm", "post_attention_layernorm")}
        rng = torch.Generator().manual_seed(seed)
        super().__init__(shapes, lambda name, shape: torch.randn(shape, generator=rng) * 0.25)
        self.fingerprint = f"random {seed}"


class NoisyScorer(Scorer):
    """Anything in [-1, 1] for some blocks, new each time: the worst a focus can do."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = Random(seed)

    def score(self, moment: Moment) -> Scores:
        blocks = moment.context.sealed // moment.context.grid.block
        return {self.rng.randrange(blocks): self.rng.uniform(-1, 1) for _ in range(6)} if blocks else {}

    def copy(self) -> NoisyScorer:
        twin = NoisyScorer()
        twin.rng.setstate(self.rng.getstate())
        return twin


def converse(
    model: BaseModel,
    cache: ContextCache,
    seed: int = 0,
    turns: int = 4,
    check: Callable[[ContextCache], None] | None = None,
) -> None:
    """Prompts of 1 to 90 tokens, and answers, checked after every pass."""
    rng = Random(seed)

    def step(token_ids: list[int]) -> None:
        logits = run(model, cache, ids(model, token_ids))
        assert logits.isfinite().all()
        cache.maintain(model)
        (check or check_laws)(cache)

    for _ in range(turns):
        prompt = [rng.randrange(VOCAB) for _ in range(rng.choice((1, 2, 7, 30, 90)))]
        done, body = 0, len(prompt) - 1
        while done < body:
            rows = cache.room(min(rng.choice((1, 3, 50)), body - done))
            step(prompt[done : done + rows])
            done += rows
        cache.maintain(model, prompt=len(prompt))
        (check or check_laws)(cache)
        step(prompt[-1:])
        for _ in range(rng.choice((1, 12))):
            step([rng.randrange(VOCAB)])


def check_laws(cache: ContextCache) -> None:
    context, view = cache.context, cache.view
    context.check()
    context.check_budget()
    view.check(context)
    assert context.history == cache.length == len(cache.tree)
    assert cache.usage.read_slots == cache.usage.resident_slots == context.slots <= cache.config.budget
    assert view.arena.position[view.arena.visible].max(initial=-1) < cache.spec.max_position
    assert context.covering(0).level == 0 or not cache.config.protect_first if context.sealed else True


def small_gpt2(seed: int = 0, max_position: int = 600) -> GPT2:
    """Two layers, two heads, learned positions, random weights that matter."""
    config = GPT2Config(
        vocab=VOCAB, rows=VOCAB, width=16, layers=2, heads=2, inner=32, eps=1e-5, max_position=max_position
    )
    return GPT2(config, RandomGPT2Weights(config, seed), dtype=torch.float32)


class RandomGPT2Weights(ToyWeights):
    """Implements `Weights`: normal numbers, fixed by the seed; norms are 1 and 0."""

    def __init__(self, config: GPT2Config, seed: int) -> None:
        width, inner = config.width, config.inner
        layer = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width)}
        layer |= {"mlp.c_fc": (width, inner), "mlp.c_proj": (inner, width)}
        shapes: dict[str, tuple[int, ...]] = {
            "wte.weight": (config.rows, width),
            "wpe.weight": (config.max_position, width),
            **{f"ln_f.{part}": (width,) for part in ("weight", "bias")},
        }
        for at in (f"h.{index}" for index in range(config.layers)):
            for name, shape in layer.items():
                shapes |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[1:]}
            shapes |= {f"{at}.{norm}.{part}": (width,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
        rng = torch.Generator().manual_seed(seed)
        super().__init__(shapes, lambda name, shape: torch.randn(shape, generator=rng) * 0.3)
        self.fingerprint = f"random gpt2 {seed}"

    def tensor(self, name: str) -> torch.Tensor:
        """Biases that are no norm's matter, too."""
        is_norm = ".ln_" in name or name.startswith("ln_f")
        return super().tensor(name) if is_norm else self.make(name, self.shapes[name])
