"""Checkpoints on disk: upstream's names and layouts, read with weights_only=True, written so that upstream can load.

A checkpoint is a folder with model_<step>.pt (state dict), meta_<step>.json and optim_<step>_rank<r>.pt. It lies in

    $NANOCHAT_BASE_DIR/{base,mid,chatsft,chatrl}_checkpoints/<tag>/                     the usual layout
    $NANOCHAT_EXPERIMENTS_DIR/$NANOCHAT_EXPERIMENT/<tag>/{base,mid,sft,rl}/             the experiments layout
    any folder                                                                          a bare one

Upstream's files carry no architecture version; which keys and shapes a generation has is checked in checkpoint_check.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nanochat.checkpoint_check import COMPILE_PREFIX, check_fit, clean_state, config_of, empty_model, generation_of
from nanochat.common import get_base_dir
from nanochat.files import atomic_write, read_json, write_json
from nanochat.generations import Generation, detect
from nanochat.gpt import GPT
from nanochat.tokenizer import RustBPETokenizer

SOURCES = {
    "base": "base_checkpoints",
    "mid": "mid_checkpoints",
    "sft": "chatsft_checkpoints",
    "rl": "chatrl_checkpoints",
}
PHASES = ("train", "eval")
Device = torch.device | str

# Writing --------------------------------------------------------------------------------------------------------------


def meta_of(model: GPT, **more: Any) -> dict[str, Any]:
    """What a meta file must say of `model`, with `more` beside it: step, val_bpb, user_config, ...

    The generation stands at the top: upstream ignores unknown keys there, but not within model_config. A G0 model's
    config goes without window_pattern, which upstream did not know then.
    """
    config = asdict(model.config)
    if not model.generation.window_divisor:
        del config["window_pattern"]
    return {**more, "model_config": config, "generation": model.generation.name}


def save_checkpoint(
    checkpoint_dir: str | Path,
    step: int,
    model_data: Mapping[str, torch.Tensor],
    optimizer_data: Any,
    meta_data: Mapping[str, Any],
    rank: int = 0,
) -> None:
    """Write a checkpoint. Rank 0 writes model and meta, every rank its own optimizer state (None: nothing).

    Each file appears whole or not at all, and the model last, so that a model file always has its meta. If meta says
    nothing of the generation, it is worked out from the weights.
    """
    folder = Path(checkpoint_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if optimizer_data is not None:
        _save(folder / f"optim_{step:06d}_rank{rank}.pt", optimizer_data)
    if rank == 0:
        meta = dict(meta_data)
        if "model_config" in meta:
            meta.setdefault("generation", detect(model_data).name)
        write_json(folder / f"meta_{step:06d}.json", meta)
        _save(folder / f"model_{step:06d}.pt", {k.replace(COMPILE_PREFIX, ""): v for k, v in model_data.items()})


def _save(path: Path, value: Any) -> None:
    with atomic_write(path) as file:
        torch.save(value, file)


# Reading --------------------------------------------------------------------------------------------------------------


def load_checkpoint(
    checkpoint_dir: str | Path, step: int, device: Device, load_optimizer: bool = False, rank: int = 0
) -> tuple[Any, Any, dict[str, Any]]:
    """(state dict as it lies on disk, optimizer state or None, meta). Raises FileNotFoundError, ValueError."""
    folder = Path(checkpoint_dir)
    meta = read_json(_there(folder / f"meta_{step:06d}.json"))
    if not isinstance(meta, dict):
        raise ValueError(f"{folder / f'meta_{step:06d}.json'} holds no JSON object")
    model_data = _load(_there(folder / f"model_{step:06d}.pt"), device)
    optimizer_data = _load(_there(_optimizer_path(folder, step, rank)), device) if load_optimizer else None
    return model_data, optimizer_data, meta


def _there(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a checkpoint has model_<step>.pt and meta_<step>.json")
    return path


def _load(path: Path, device: Device) -> Any:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged or hostile file raises nearly any type
        raise ValueError(f"{path} cannot be read as plain weights: {error}") from error


def _optimizer_path(folder: Path, step: int, rank: int) -> Path:
    """One file a rank; G0 had one file for all."""
    own, shared = folder / f"optim_{step:06d}_rank{rank}.pt", folder / f"optim_{step:06d}.pt"
    return shared if shared.exists() and not own.exists() else own


def build_model(
    checkpoint_dir: str | Path,
    step: int,
    device: Device,
    phase: str,
    *,
    generation: str | Generation | None = None,
    tokenizer_dir: str | Path | None = None,
) -> tuple[GPT, RustBPETokenizer, dict[str, Any]]:
    """(model, tokenizer, meta), checked. phase: "train" or "eval", the mode that the model is left in.

    generation: overrides what meta says and what the weights show, such as "G2s20". On cpu and mps bfloat16 weights
    become float32. tokenizer_dir: None searches `tokenizer/` beside the checkpoint, then in the base folder.
    Raises FileNotFoundError, ValueError, both naming file and key.
    """
    if phase not in PHASES:
        raise ValueError(f"phase must be train or eval, got {phase!r}")
    folder = Path(checkpoint_dir)
    where = str(folder / f"model_{step:06d}.pt")
    model_data, _, meta = load_checkpoint(folder, step, device)
    state = clean_state(model_data, where, widen=torch.device(device).type in {"cpu", "mps"})
    config = config_of(meta, state, where)
    model = empty_model(config, state, generation_of(state, meta, generation), where)
    check_fit(state, model, where)
    model.load_state_dict(state, strict=True, assign=True)
    tokenizer = RustBPETokenizer.from_directory(tokenizer_dir or find_tokenizer(folder))
    if tokenizer.get_vocab_size() != config.vocab_size:
        raise ValueError(
            f"Tokenizer vocab size {tokenizer.get_vocab_size()} does not match model config vocab size "
            f"{config.vocab_size}"
        )
    return model.train(phase == "train"), tokenizer, meta


def find_tokenizer(checkpoint_dir: str | Path) -> Path:
    """Folder of the tokenizer that belongs to a checkpoint. Raises FileNotFoundError saying where it looked."""
    folder = Path(checkpoint_dir).resolve()
    near = [folder, *(parent / "tokenizer" for parent in (folder, *folder.parents[:2]))]
    places = [*near, Path(get_base_dir(), "tokenizer")]
    for place in places:
        if (place / "tokenizer.json").exists() or (place / "tokenizer.pkl").exists():
            return place
    raise FileNotFoundError(f"no tokenizer.json or tokenizer.pkl in {', '.join(map(str, dict.fromkeys(places)))}")


# Finding --------------------------------------------------------------------------------------------------------------


def find_last_step(checkpoint_dir: str | Path) -> int:
    """Highest step that has a model file. Raises FileNotFoundError."""
    names = os.listdir(checkpoint_dir) if os.path.isdir(checkpoint_dir) else []
    steps = [int(match[1]) for name in names if (match := re.fullmatch(r"model_(\d+)\.pt", name))]
    if not steps:
        raise FileNotFoundError(f"no model_<step>.pt in {checkpoint_dir}")
    return max(steps)


def find_largest_model(checkpoints_dir: str | Path, phase: str = "") -> str:
    """Tag of the deepest model, d<depth>; without such names, the one changed last. phase: a subfolder it must have.

    Raises FileNotFoundError.
    """
    root = Path(checkpoints_dir)
    folders = [path for path in root.iterdir() if (path / phase).is_dir()] if root.is_dir() else []
    if not folders:
        raise FileNotFoundError(f"no checkpoints in {root}" + (f" with a {phase} folder" if phase else ""))
    depths = [(int(match[1]), path.name) for path in folders if (match := re.match(r"d(\d+)", path.name))]
    return max(depths)[1] if depths else max(folders, key=lambda path: path.stat().st_mtime).name


def locate(source: str | Path, model_tag: str | None = None) -> Path:
    """Folder of a checkpoint. source: base, mid, sft, rl, or a path to a folder of checkpoints or to a bare one.

    NANOCHAT_EXPERIMENT or NANOCHAT_EXPERIMENTS_DIR put the experiments layout first. Raises FileNotFoundError.
    """
    if str(source) not in SOURCES:
        return _locate_in(Path(source), model_tag)
    base = Path(get_base_dir())
    usual = (base / SOURCES[str(source)], "")
    experiments = Path(os.environ.get("NANOCHAT_EXPERIMENTS_DIR") or base / "experiments")
    experiment = (experiments / os.environ.get("NANOCHAT_EXPERIMENT", "default"), str(source))
    asked = any(os.environ.get(name) for name in ("NANOCHAT_EXPERIMENT", "NANOCHAT_EXPERIMENTS_DIR"))
    for root, phase in [experiment, usual] if asked else [usual, experiment]:
        with suppress(FileNotFoundError):
            folder = root / (model_tag or find_largest_model(root, phase)) / phase
            if folder.is_dir():
                return folder
    raise FileNotFoundError(f"no {source} checkpoint {model_tag or ''} in {usual[0]} or {experiment[0]}")


def _locate_in(root: Path, model_tag: str | None) -> Path:
    if model_tag is None and any(root.glob("model_*.pt")):
        return root
    return root / (model_tag or find_largest_model(root))


def load_model_from_dir(
    checkpoints_dir: str | Path,
    device: Device,
    phase: str,
    model_tag: str | None = None,
    step: int | None = None,
    **options: Any,
) -> tuple[GPT, RustBPETokenizer, dict[str, Any]]:
    """As build_model, from a folder of checkpoints or a bare one: tag None is the largest model, step None the last."""
    folder = _locate_in(Path(checkpoints_dir), model_tag)
    return build_model(folder, find_last_step(folder) if step is None else step, device, phase, **options)


def load_model(
    source: str | Path,
    device: Device,
    phase: str,
    model_tag: str | None = None,
    step: int | None = None,
    **options: Any,
) -> tuple[GPT, RustBPETokenizer, dict[str, Any]]:
    """As build_model, by source: base, mid, sft, rl, or a path. options: build_model's generation, tokenizer_dir."""
    folder = locate(source, model_tag)
    return build_model(folder, find_last_step(folder) if step is None else step, device, phase, **options)


def load_optimizer_state(
    source: str | Path, device: Device, rank: int, model_tag: str | None = None, step: int | None = None
) -> Any:
    """This rank's optimizer state, or None if the checkpoint has none."""
    folder = locate(source, model_tag)
    path = _optimizer_path(folder, find_last_step(folder) if step is None else step, rank)
    return _load(path, device) if path.exists() else None
