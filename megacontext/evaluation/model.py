"""The model of a measurement: opened as its configuration says, and what every row says of it. No memory here."""

from __future__ import annotations

from typing import Any

import torch

from megacontext.config import ModelConfig
from megacontext.evaluation.corpus import Corpus
from megacontext.models import load_model
from megacontext.models.base import LoadedModel


def open_model(config: ModelConfig) -> LoadedModel:
    """The model of a configuration, with as many threads as it says."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return load_model(config)


def about(loaded: LoadedModel, corpus: Corpus) -> dict[str, Any]:
    """What every figure depends on: model, number format, where it runs, and the texts' hashes."""
    spec = loaded.model.spec
    return {
        "model": loaded.name,
        "dtype": str(spec.dtype).removeprefix("torch."),
        "device": spec.device.type,
        "threads": torch.get_num_threads(),
        "texts": corpus.files,
    }
