"""What a run is asked to do: the configuration file, the flags and the environment as one `Job`, all paths settled.

The file is an earlier configuration with a `dataset:` section, or that section alone. Paths in it count from its
folder; paths in --set from the current folder. MEGACONTEXT_DATA_ROOT moves relative outputs, and metadata.yaml, to
<data root>/<their path below the project root>. Nothing is read or written here but the configuration file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from megacontext.config_loader import Override, load_config, parse_override
from megacontext.errors import ConfigError
from megacontext.yaml_loader import parse_yaml
from tools.dataset.examples import limit_of
from tools.legacy.config import load_legacy
from tools.legacy.dataset_config import NO_TEACHER, DatasetConfig, SplitConfig

VARIABLE = "MEGACONTEXT_DATASET_"
DATA_ROOT, FORCE = "MEGACONTEXT_DATA_ROOT", "MEGACONTEXT_FORCE_DATA_REBUILD"
YES, NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class SplitJob:
    """One split. source: file or glob from folder `base`. limit: tokens to read, whole blocks; None for all."""

    name: str
    base: Path
    source: str
    max_files: int | None
    limit: int | None
    output: Path


@dataclass(frozen=True)
class Job:
    """A run. tokenizer, teacher: names or paths of models; teacher None: no hidden states."""

    file: Path
    root: Path
    config: DatasetConfig
    tokenizer: str
    teacher: str | None
    splits: tuple[SplitJob, ...]
    metadata: Path
    force: bool


def read_job(
    path: Path,
    environ: Mapping[str, str],
    *,
    assignments: Sequence[str] = (),
    only: Sequence[str] = (),
    force: bool = False,
) -> Job:
    """assignments: `dataset.KEY=VALUE` or `dataset.splits.NAME.KEY=VALUE`. only: the splits to make, all if empty.

    Raises ConfigError.
    """
    found = _load(path, assignments, environ)
    config, root = found.config, found.root.resolve()
    paths = _Paths(path.resolve().parent, root, environ.get(DATA_ROOT))
    return Job(
        file=path.resolve(),
        root=root,
        config=config,
        tokenizer=_tokenizer(config.tokenizer, found.base),
        teacher=_teacher(config.teacher_model, found.base, found.has_base),
        splits=_splits(config, paths, only),
        metadata=paths.rerooted(root / "data" / config.dataset_name / "metadata.yaml"),
        force=force or _switched_on(environ),
    )


class _Found(NamedTuple):
    """What the file says. base: `base_model.name`; has_base: whether there is such a section."""

    root: Path
    config: DatasetConfig
    base: str | None = None
    has_base: bool = False


def _load(path: Path, assignments: Sequence[str], environ: Mapping[str, str]) -> _Found:
    """The whole file, checked by its schema."""
    values = _peek(path)
    section = values.get("dataset")
    if section is None and values and "dataset_name" not in values:
        raise ConfigError(f"{path}: there is no `dataset:` section, so there is nothing to prepare; name another file")
    if section is None:
        alone = load_config(path, DatasetConfig, overrides=_overrides(values, assignments, environ), environ=environ)
        return _Found(alone.root, alone.config)
    inner = _overrides(section if isinstance(section, dict) else {}, assignments, environ)
    overrides = {f"dataset.{name}": override for name, override in inner.items()}
    loaded = load_legacy(path, overrides=overrides, environ=environ)
    assert loaded.config.dataset is not None  # its section is there
    return _Found(loaded.root, loaded.config.dataset, loaded.config.base_model.name, "base_model" in values)


def _peek(path: Path) -> dict[str, Any]:
    """The file's values, before any check; {} where the loader is to say what is wrong."""
    try:
        values = parse_yaml(path.read_bytes(), str(path)).value
    except OSError:
        return {}
    return values if isinstance(values, dict) else {}


def _overrides(
    section: Mapping[str, Any], assignments: Sequence[str], environ: Mapping[str, str]
) -> dict[str, Override]:
    """The environment, then --set: key -> override. A key of a split overrides all of `splits`, the rest unchanged."""
    found = {
        key: parse_override(DatasetConfig, key, environ[variable], f"environment {variable}")
        for variable in sorted(environ)
        if variable.startswith(VARIABLE) and (key := variable.removeprefix(VARIABLE).lower())
    }
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        place, *keys = name.split(".")
        if place != "dataset" or not equals or not (len(keys) == 1 or (len(keys) == 3 and keys[0] == "splits")):
            raise ConfigError(
                f"--set {assignment}: write dataset.KEY=VALUE or dataset.splits.NAME.KEY=VALUE, "
                "for example dataset.block_size=16"
            )
        source = f"flag --set {name}"
        if len(keys) == 1:
            found[keys[0]] = parse_override(DatasetConfig, keys[0], text, source)
        else:
            splits = found["splits"].value if "splits" in found else section.get("splits")
            found["splits"] = Override(_with_split(splits, keys[1], keys[2], text, source), source)
    return found


def _with_split(splits: Any, name: str, key: str, text: str, source: str) -> dict[str, Any]:
    if not isinstance(splits, dict) or not isinstance(splits.get(name), dict):
        raise ConfigError(f"{source}: there is no split {name}; {_known(splits if isinstance(splits, dict) else {})}")
    value = parse_override(SplitConfig, key, text, source).value
    if key in ("source", "output_path") and value is not None:
        value = str(Path.cwd() / Path(value).expanduser())
    return {**splits, name: {**splits[name], key: value}}


def _known(splits: Mapping[str, object]) -> str:
    return f"dataset.splits has {', '.join(splits) or 'none'}"


def _tokenizer(setting: str | None, base_name: str | None) -> str:
    name = base_name if setting in (None, "auto") else setting
    if not name:
        raise ConfigError("Specify dataset.tokenizer when base_model.name is unset.")
    return name


def _teacher(setting: str | None, base_name: str | None, has_base: bool) -> str | None:
    if setting == NO_TEACHER or (setting is None and not has_base):
        return None
    name = base_name if setting in (None, "auto") else setting
    if not name:
        raise ConfigError("Specify dataset.teacher_model when base_model.name is unset.")
    return name


def _switched_on(environ: Mapping[str, str]) -> bool:
    value = environ.get(FORCE, "").lower()
    if value not in YES + NO:
        raise ConfigError(f"{FORCE} is {environ[FORCE]!r}; set it to 1 or 0")
    return value in YES


class _Paths:
    """Where outputs go. base: the configuration file's folder."""

    def __init__(self, base: Path, root: Path, data_root: str | None) -> None:
        self.base, self.root = base, root
        self.data_root = Path(data_root).expanduser().resolve() if data_root else None

    def output(self, path: str) -> Path:
        wanted = Path(path).expanduser()
        return wanted if wanted.is_absolute() else self.rerooted((self.base / wanted).resolve())

    def rerooted(self, path: Path) -> Path:
        """`path` below the data root, if there is one. Raises ConfigError for a path outside the project root."""
        if self.data_root is None:
            return path
        if not path.is_relative_to(self.root):
            raise ConfigError(
                f"output_path {path} lies outside the project root {self.root}, so {DATA_ROOT} cannot say where it "
                "goes; name a path inside, or an absolute one"
            )
        return self.data_root / path.relative_to(self.root)


def _splits(config: DatasetConfig, paths: _Paths, only: Sequence[str]) -> tuple[SplitJob, ...]:
    unknown = next((name for name in only if name not in config.splits), None)
    if unknown is not None:
        raise ConfigError(f"--split {unknown}: there is no such split; {_known(config.splits)}")
    found = [_split(name, split, config, paths) for name, split in config.splits.items()]
    outputs = [split.output for split in found]
    twice = next((path for path in outputs if outputs.count(path) > 1), None)
    if twice is not None:
        raise ConfigError(f"two splits write {twice}; give each its own output_path")
    return tuple(split for split in found if not only or split.name in only)


def _split(name: str, split: SplitConfig, config: DatasetConfig, paths: _Paths) -> SplitJob:
    limit = limit_of(split.max_tokens, config.block_size)
    return SplitJob(name, paths.base, split.source, split.max_files, limit, paths.output(split.output_path))
