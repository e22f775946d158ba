"""The two models of a data set: the one whose tokenizer is used, and the teacher whose hidden states are kept.

A model is looked for by its name on the hub or by its path; what is found is hashed, so that a data set knows what made
it. Nothing is loaded before it is needed.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from megacontext.errors import ConfigError, MissingAsset
from megacontext.models.folder import read_json
from tools.dataset.documents import CHUNK, Encode
from tools.legacy.models import find_model

if TYPE_CHECKING:
    from torch import Tensor

    from megacontext.models.base import LoadedModel
    from tools.legacy.dataset_config import DatasetConfig

TEXT_SIDE = (".json", ".txt", ".jinja", ".pkl")
WEIGHTS = (".safetensors", ".bin", ".pt")
SEEDED = "megacontext_seeded"  # in the config.json of a made-up model: its seed
ANY = 1 << 31  # size of a vocabulary that does not matter: nothing is decoded
CARRIERS = {"gpt2": "sshleifer/tiny-gpt2"}  # tokenizer -> a small model that carries it, unchanged


class ModelFiles(NamedTuple):
    """A model on disk. sha256: over every file that matters; seeded: its weights are random numbers."""

    name: str
    path: Path
    sha256: str
    seeded: bool


def locate_teacher(name: str, root: Path) -> ModelFiles:
    """The model called `name`. Raises MissingAsset if it is not there."""
    return _model_files(name, find_model(name, root).path, weights=True)


def locate_tokenizer(name: str, root: Path) -> ModelFiles:
    """The model whose tokenizer is called `name`, or a folder that holds nothing else. Raises MissingAsset."""
    alone = root / Path(name).expanduser()
    if _has_tokenizer(alone):
        return _model_files(name, alone, weights=False)
    try:
        found = find_model(name, root)
    except MissingAsset:
        if name not in CARRIERS:
            raise
        found = find_model(CARRIERS[name], root)
    return _model_files(name, found.path, weights=False)


def _model_files(name: str, path: Path, *, weights: bool) -> ModelFiles:
    """weights: whether the model's numbers matter, or its tokenizer alone."""
    seeded = (path / "config.json").is_file() and read_json(path / "config.json").get(SEEDED) is not None
    return ModelFiles(name, path, _digest(path, weights), seeded)


def _digest(path: Path, weights: bool) -> str:
    suffixes = (*TEXT_SIDE, *(WEIGHTS if weights else ()))
    inside = sorted(file for file in path.rglob("*") if file.suffix in suffixes and file.is_file())
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else inside:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as data:
            while chunk := data.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def load_encoder(files: ModelFiles) -> Encode:
    """Text -> ids, without specials. No weights are read."""
    from megacontext.models.folder_text import FolderText
    from megacontext.models.gpt2_tokenizer import GPT2Text
    from megacontext.models.load_text import load_text

    folder = files.path
    if (folder / "config.json").is_file() or not _has_tokenizer(folder):
        return load_text(folder, ANY).encode
    return (FolderText if (folder / "tokenizer.json").is_file() else GPT2Text)(folder).text(ANY).encode


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json"))


def _load(files: ModelFiles, dtype: str, device: str) -> LoadedModel:
    from megacontext.config import ModelConfig
    from megacontext.models import load_model

    return load_model(ModelConfig.model_validate({"path": str(files.path), "dtype": dtype, "device": device}))


class Teacher:
    """The last hidden states of a model, over examples side by side."""

    def __init__(self, files: ModelFiles, config: DatasetConfig) -> None:
        """Raises ConfigError if an example is longer than what the model was trained on."""
        device, dtype = _placement(config)
        self.name = files.name
        loaded = _load(files, dtype, device)
        self._model, self.encode = loaded.model, loaded.text.encode
        spec = self._model.spec
        self.width, self.vocab, self.device = spec.width, spec.vocab, spec.device.type
        self.dtype = str(spec.dtype).removeprefix("torch.")
        if config.example_tokens > spec.max_position:
            raise ConfigError(
                f"dataset.context_tokens + horizon is {config.example_tokens}, but the teacher {files.name} was "
                f"trained on {spec.max_position} positions; lower context_tokens, or name another teacher_model"
            )

    def hidden(self, ids: np.ndarray) -> np.ndarray:
        """ids (n, T) int64 -> final normalised hidden rows (n, T, D) in the teacher's number format.

        bfloat16, which numpy lacks, comes as its bits in uint16.
        """
        import torch

        from nanochat.kv_cache import NoCache

        with torch.no_grad():
            tokens = torch.from_numpy(ids).to(self._model.spec.device)
            rows = self._model.forward(self._model.embed(tokens), NoCache(self._model.spec))
            return _as_numpy(rows.to(self._model.spec.dtype).cpu())


def _placement(config: DatasetConfig) -> tuple[str, str]:
    """Device and dtype by name. On a CPU auto means float32, so that the same texts give the same file anywhere."""
    from nanochat.hardware import autodetect_device_type

    device = config.teacher_device.partition(":")[0]
    device = autodetect_device_type() if device == "auto" else device
    dtype = config.teacher_dtype or "auto"
    return device, "float32" if (device, dtype) == ("cpu", "auto") else dtype


def _as_numpy(rows: Tensor) -> np.ndarray:
    import torch

    if rows.dtype == torch.bfloat16:
        return rows.contiguous().view(torch.int16).numpy().view(np.uint16)
    return rows.contiguous().numpy()


class Models:
    """Tokenizer and teacher of a job, each loaded when it is first asked for."""

    def __init__(self, tokenizer: ModelFiles, teacher: ModelFiles | None, config: DatasetConfig) -> None:
        self.tokenizer_files, self.teacher_files, self._config = tokenizer, teacher, config

    @cached_property
    def teacher(self) -> Teacher | None:
        return None if self.teacher_files is None else Teacher(self.teacher_files, self._config)

    @cached_property
    def encode(self) -> Encode:
        """Text -> ids. Raises ConfigError for an id that the teacher does not know."""
        teacher = self.teacher
        if teacher is None:
            return load_encoder(self.tokenizer_files)
        same = self.teacher_files is not None and self.teacher_files.path == self.tokenizer_files.path
        plain = teacher.encode if same else load_encoder(self.tokenizer_files)

        def encode(text: str) -> list[int]:
            ids = plain(text)
            if ids and max(ids) >= teacher.vocab:
                raise ConfigError(
                    f"the tokenizer {self.tokenizer_files.name} gives id {max(ids)}, but the teacher {teacher.name} "
                    f"knows {teacher.vocab} ids; set dataset.tokenizer to the teacher's own"
                )
            return ids

        return encode
