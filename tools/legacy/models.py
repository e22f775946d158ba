"""Where a model lies that a configuration names as the Hugging Face hub does: `owner/name`. Nothing is fetched.

Looked for as a path, in artifacts/models, and in the cache that Hugging Face's own programs keep. One name has a
stand-in: where the legacy demo's model is not here, bootstrap makes one up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from megacontext.errors import MissingAsset

BOOTSTRAP = "python tools/bootstrap_env.py"
STAND_INS = {"sshleifer/tiny-gpt2": "tiny-gpt2-seeded"}
WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "model_*.pt")


class FoundModel(NamedTuple):
    """path: a folder or a file. seeded: made up; it stands in for the model that was asked for."""

    path: Path
    seeded: bool = False


def find_model(name: str, root: Path, environ: Mapping[str, str] | None = None) -> FoundModel:
    """The model called `name`. root: of the project; a relative path counts from there, then from the current folder.

    Raises MissingAsset, with where it was looked for and how to get it.
    """
    here = next(_paths(name, root), None)
    if here is not None:
        return FoundModel(here)
    if name.startswith((".", "~")) or Path(name).is_absolute() or name.count("/") > 1 or name.endswith(".gguf"):
        raise MissingAsset(f"no model at {name}; name a model's folder or file, or a model of the hub as owner/name")
    store = root / "artifacts" / "models"
    cache = hub_cache(os.environ if environ is None else environ)
    folders = [store / name.replace("/", "--"), *_snapshots(cache, name)]
    found = next((folder for folder in folders if _is_model(folder)), None)
    if found is not None:
        return FoundModel(found)
    stand_in = store / STAND_INS[name] if name in STAND_INS else None
    if stand_in is not None and _is_model(stand_in):
        return FoundModel(stand_in, seeded=True)
    raise MissingAsset(f"the model {name} is not here: neither at {folders[0]} nor in {cache}. {_way_out(name)}")


def hub_cache(environ: Mapping[str, str]) -> Path:
    """The folder where Hugging Face's programs keep models: HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, or the usual one."""
    if environ.get("HF_HUB_CACHE"):
        return Path(environ["HF_HUB_CACHE"]).expanduser()
    caches = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(environ.get("HF_HOME") or f"{caches}/huggingface").expanduser() / "hub"


def _paths(name: str, root: Path) -> Iterator[Path]:
    for base in (root, Path.cwd()):
        path = base / Path(name).expanduser()
        if path.is_file() or _is_model(path):
            yield path


def _snapshots(cache: Path, name: str) -> list[Path]:
    """Revisions in the cache: what `main` points at first, then the newest."""
    folder = cache / f"models--{name.replace('/', '--')}"
    try:
        main = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        main = ""
    try:
        there = [path for path in (folder / "snapshots").iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted(there, key=lambda path: (path.name == main, path.stat().st_mtime), reverse=True)


def _is_model(folder: Path) -> bool:
    """Whether there are weights in it: a cache may hold a tokenizer alone."""
    return folder.is_dir() and any(file.is_file() for pattern in WEIGHTS for file in folder.glob(pattern))


def _way_out(name: str) -> str:
    if name in STAND_INS:
        return f"`{BOOTSTRAP} --only tiny-gpt2` brings it, or makes a stand-in where no hub can be reached."
    return f"`{BOOTSTRAP} --hub {name}` brings it; set HF_TOKEN first if its owner asks for consent."
