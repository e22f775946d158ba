"""Models behind one contract: `load_model` looks at a path and picks the reader.

base.py    what a model file offers              text.py           text to ids and back
llama.py, gpt2.py     one family each, behind    chat_template.py  conversations, from a Jinja template
    the hook; load_*.py puts one together        folder_text.py    a folder's tokenizer
folder.py  config.json and weights of a folder   gguf.py, safetensors.py, pytorch_bin.py, nanochat.py
                                                                   one file format each

Nothing here is imported before it is needed: command lines answer `--help` without torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.errors import ConfigError, MissingAsset

if TYPE_CHECKING:
    from megacontext.config import ModelConfig
    from megacontext.models.base import LoadedModel

BOOTSTRAP = "python tools/bootstrap_env.py"


def load_model(config: ModelConfig) -> LoadedModel:
    """A .gguf file, a folder with config.json and weights, or a nanochat checkpoint folder -> a ready model.

    Raises MissingAsset when nothing is there, ConfigError for a kind that is not supported, ModelFileError for a
    damaged file.
    """
    path = Path(config.path).expanduser()
    if not path.exists():
        raise MissingAsset(f"no model at {path}; `{BOOTSTRAP}` brings the demo model, or set model.path")
    if path.is_file() and path.suffix.lower() == ".gguf":
        from megacontext.models.load_llama import load_gguf

        return load_gguf(path, config)
    if path.is_dir() and (path / "config.json").exists():
        return _load_folder(path, config)
    if path.is_dir() and any(any(path.glob(where)) for where in ("model_*.pt", "*/model_*.pt")):
        from megacontext.models.nanochat import load_nanochat

        return load_nanochat(path, config)
    raise ConfigError(
        f"{path} is no model: expected a .gguf file, a folder with config.json and *.safetensors "
        "or pytorch_model.bin, or a nanochat checkpoint folder with model_*.pt"
    )


def _load_folder(path: Path, config: ModelConfig) -> LoadedModel:
    """By the family that config.json names: the one place that knows which there are."""
    from megacontext.models.folder import Folder
    from megacontext.models.load_gpt2 import load_gpt2
    from megacontext.models.load_llama import load_llama

    families = {"gpt2": load_gpt2, "llama": load_llama, "mistral": load_llama}
    folder = Folder(path)
    family = folder.raw.get("model_type")
    if not isinstance(family, str) or family not in families:
        raise ConfigError(f"{folder.config_file}: model_type {family!r} is not supported; {', '.join(families)} are")
    return families[family](folder, config)
