"""What full attention predicts where a task asks for it: made once for an episode, kept on disk for all memories.

Rows are log-probabilities over the whole vocabulary, float16. They know nothing of tasks: an episode is its tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from megacontext.errors import ConfigError
from megacontext.evaluation.episodes.steps import Ask, Continue, Read, Step
from nanochat.files import atomic_write
from nanochat.hook import BaseModel
from nanochat.kv_cache import DenseCache

PASS = 128  # rows of one pass: logits of more would not pay


class Reference:
    """Full attention's predictions by one model. folder: where they are kept; it may be shared and be deleted."""

    def __init__(self, model: BaseModel, folder: Path) -> None:
        self.model, self.folder = model, folder

    def rows(self, steps: Sequence[Step]) -> Tensor:
        """(n, V) float16 log-probabilities for the n tokens of all steps that ask for KL, in their order.

        Raises ConfigError past the trained length, ValueError if what is read depends on answers.
        """
        path = self.folder / f"{self._key(steps)}.npy"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path, sync=False) as file:
                np.save(file, self._made(steps).numpy())
        return torch.from_numpy(np.load(path))

    def _key(self, steps: Sequence[Step]) -> str:
        spec = self.model.spec
        plan = [(step.tokens, isinstance(step, Continue) and step.kl) for step in texts(steps)]
        whole = json.dumps([spec.fingerprint, str(spec.dtype), spec.device.type, plan])
        return hashlib.sha256(whole.encode()).hexdigest()[:24]

    def _made(self, steps: Sequence[Step]) -> Tensor:
        """By a plain cache that reads all there is."""
        spec, found = self.model.spec, []
        length, trained = sum(len(step.tokens) for step in texts(steps)), spec.max_position
        if length > trained:
            raise ConfigError(
                f"KL to full attention: the episode has {length} tokens, the model was trained on {trained}; past "
                "those full attention is no measure: give the task at most so many tokens"
            )
        cache = DenseCache(spec, capacity=length)
        last = torch.empty(0)
        for step in texts(steps):
            wanted = isinstance(step, Continue) and step.kl
            for start in range(0, len(step.tokens), PASS):
                ids = torch.tensor([step.tokens[start : start + PASS]], device=spec.device)
                hidden = self.model.forward(self.model.embed(ids), cache)[0]
                if wanted:
                    logits = self.model.logits(torch.cat([last, hidden[:-1]])[None])[0]
                    found.append(logits.float().log_softmax(-1).half().cpu())
                last = hidden[-1:]
        return torch.cat(found)


def texts(steps: Sequence[Step]) -> list[Read | Continue]:
    """The steps that are the same for every memory. Raises ValueError for a question that stays."""
    if any(isinstance(step, Ask) and step.stay for step in steps):
        raise ValueError("KL to full attention needs one text for all memories: no question of the episode may stay")
    return [step for step in steps if not isinstance(step, Ask)]


def divergence(full: Tensor, logits: Tensor) -> list[float]:
    """KL(full || memory) in nats, row by row. full (T, V): log-probabilities; logits (T, V) of the memory's rows."""
    p = full.to(logits.device).float().log_softmax(-1)  # what float16 lost of the sum comes back
    q = logits.float().log_softmax(-1)
    nats: list[float] = (p.exp() * (p - q)).sum(-1).tolist()
    return nats
