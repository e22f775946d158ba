"""The generations of nanochat's architecture, as one table.

Upstream checkpoints carry no architecture version. What can be seen in a state dict (which parameters there are, how
wide a gate is) identifies the generation; what cannot (softcap, rotary base, QK scale, window fractions) hangs on it
and stands here. `GPT` reads this table and has no other notion of a version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

SMEAR_CHANNELS = 24  # the smear gate reads the first 24 channels of a row


@dataclass(frozen=True)
class Generation:
    """One architecture generation: the constants that upstream hard-coded at the time.

    softcap: logits are softcap * tanh(logits / softcap). qk_scale: factor on normalised queries and keys.
    table_rounding: dtype that rotary tables were rounded to, None for none.
    lambdas: learned residual scales and a skip from the embedding into every block.
    window_divisor: a short window is sequence_len / window_divisor, rounded up to `window_multiple`; 0: full attention.
    gate_channels: input channels of the value-embedding gate, 0 for no value embeddings. gate_factor: its range.
    smear: the previous row's embedding is mixed in, and the middle block's output is taken back out at the end.
    init: which recipe `init_weights` follows.
    """

    name: str
    softcap: float = 15.0
    rope_base: float = 10_000.0
    table_rounding: torch.dtype | None = field(default=torch.bfloat16)
    qk_scale: float = 1.0
    lambdas: bool = True
    window_divisor: int = 2
    window_multiple: int = 1
    gate_channels: int = 0
    gate_factor: float = 0.0
    smear: bool = False
    init: str = "uniform"

    def short_window(self, sequence_len: int) -> int:
        """Width of an 'S' window: row i sees rows i - width .. i."""
        if self.window_multiple == 1:
            return sequence_len // self.window_divisor
        return -(-sequence_len // (self.window_divisor * self.window_multiple)) * self.window_multiple

    def windows(self, pattern: str, layers: int, sequence_len: int) -> tuple[int | None, ...]:
        """Window of each layer: `pattern` is tiled over the layers, and the last layer is always long.

        'L' is a window too, of sequence_len. Only G0, which knows no windows, attends to everything (None).
        """
        if not self.window_divisor:
            return (None,) * layers
        if not pattern or set(pattern.upper()) - set("SL"):
            raise ValueError(f"window_pattern is {pattern!r}; it must be a non-empty string of 'S' and 'L'")
        width = {"S": self.short_window(sequence_len), "L": sequence_len}
        tiled = [width[pattern.upper()[i % len(pattern)]] for i in range(layers - 1)]
        return (*tiled, sequence_len)


G0 = Generation("G0", lambdas=False, window_divisor=0, init="normal")  # 2025-10-13 .. 2026-01-11
G1 = Generation("G1")  # .. 2026-01-18
G2 = Generation("G2", gate_channels=32, gate_factor=2.0)  # .. 2026-03-02
G2S20 = Generation("G2s20", gate_channels=32, gate_factor=2.0, softcap=20.0, table_rounding=None)  # .. 2026-03-09
G3 = Generation(
    "G3",
    rope_base=100_000.0,
    table_rounding=None,
    qk_scale=1.15,
    window_divisor=3,
    window_multiple=128,
    gate_channels=12,
    gate_factor=3.0,
)  # .. 2026-03-14
G4 = Generation(
    "G4",
    rope_base=100_000.0,
    table_rounding=None,
    qk_scale=1.2,
    window_divisor=4,
    window_multiple=128,
    gate_channels=12,
    gate_factor=3.0,
    smear=True,
    init="graded",
)  # 2026-03-14 ..

GENERATIONS: Mapping[str, Generation] = {g.name: g for g in (G0, G1, G2, G2S20, G3, G4)}
LATEST = G4


def named(name: str) -> Generation:
    """The generation called `name`, in any case. Raises ValueError naming the choices."""
    for key, generation in GENERATIONS.items():
        if key.lower() == name.lower():
            return generation
    raise ValueError(f"unknown generation {name!r}; choose one of {', '.join(GENERATIONS)}")


def detect(state: Mapping[str, Tensor]) -> Generation:
    """Which generation a state dict is of. Compile prefixes ('_orig_mod.') are ignored.

    G2 with softcap 20 cannot be told from G2: it needs an override. Raises ValueError for a gate of unknown width.
    """
    names = {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
    if "smear_gate.weight" in names:
        return G4
    gates = [tensor for name, tensor in names.items() if name.endswith(".ve_gate.weight")]
    if gates:
        return _by_gate(gates[0].shape[-1])
    return G1 if "resid_lambdas" in names else G0


def _by_gate(channels: int) -> Generation:
    for generation in (G3, G2):
        if generation.gate_channels == channels:
            return generation
    raise ValueError(
        f"the value gate reads {channels} channels; known are 32 (G2) and 12 (G3): "
        "this checkpoint is of a transient architecture that is not supported"
    )
