"""Which configuration is looked at, and where it puts things: the chat's, or one of the earlier files.

Loads no model. Needs pydantic and PyYAML, as configurations do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megacontext.config import DemoConfig
from megacontext.config_loader import LoadedConfig, load_config
from megacontext.errors import MissingAsset
from megacontext.yaml_loader import parse_yaml
from tools.legacy.config import LegacyConfig, load_legacy
from tools.legacy.models import find_model

CORPUS = "artifacts/corpus/sample.txt"
ONLY_LEGACY = set(LegacyConfig.model_fields) - set(DemoConfig.model_fields)


@dataclass(frozen=True)
class Subject:
    """What a configuration comes to. model: where its weights are, else None, and `missing` says how to get them.

    sessions: None where nothing of a conversation is kept. needs_corpus: whether a run reads it.
    """

    name: str
    root: Path
    log_dir: Path
    corpus: Path
    model: Path | None
    missing: str = ""
    sessions: Path | None = None
    needs_corpus: bool = False


def load_subject(path: str | Path) -> Subject:
    """Raises ConfigError: the file is not there, a key is unknown, a value is wrong."""
    return _legacy(load_legacy(path)) if _is_legacy(Path(path)) else _demo(load_config(path))


def default_subject() -> Subject:
    """What the chat does when nothing is said: for looking on where a configuration is wrong."""
    return _demo(load_config(None, environ={}))


def _is_legacy(path: Path) -> bool:
    """Whether a file has a key that only the earlier files have. What cannot be read is the loader's to complain of."""
    if path.suffix.lower() == ".json" or not path.is_file():
        return path.suffix.lower() == ".json"
    try:
        found = parse_yaml(path.read_bytes(), str(path)).value
    except Exception:  # the loader says it better
        return False
    return isinstance(found, dict) and not ONLY_LEGACY.isdisjoint(found)


def _demo(loaded: LoadedConfig[DemoConfig]) -> Subject:
    config = loaded.config
    model = Path(config.model.path)
    return Subject(
        name=_name(loaded.path),
        root=loaded.root,
        log_dir=Path(config.telemetry.log_dir),
        corpus=loaded.root / CORPUS,
        model=model if model.exists() else None,
        missing=f"no model at {model}",
        sessions=None if config.session.ephemeral else Path(config.session.root),
    )


def _legacy(loaded: LoadedConfig[LegacyConfig]) -> Subject:
    config = loaded.config
    model, missing = None, ""
    try:
        model = find_model(config.decode.model_name, loaded.root).path
    except MissingAsset as error:
        missing = str(error)
    return Subject(
        name=_name(loaded.path),
        root=loaded.root,
        log_dir=Path(config.telemetry.log_dir),
        corpus=Path(config.demo.corpus),
        model=model,
        missing=missing,
        needs_corpus=config.demo.corpus_tokens > 0,
    )


def _name(path: Path | None) -> str:
    return "defaults" if path is None else str(path)
