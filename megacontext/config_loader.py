"""From a YAML file, the environment and flags to a typed config, with the history of every value.

A value comes from, in this order: a flag, the environment (`MEGACONTEXT_<SECTION>_<FIELD>`), the YAML file, the
default; `print_config` shows which. Nothing is guessed: an unknown name or a wrong type raises ConfigError with file,
line and the nearest name.

Relative paths in a file (and defaults) count from the project root, which is the folder above the `configs` folder the
file lies in, or the current folder for a file elsewhere. Paths from flags and the environment count from the current
folder, as paths in a shell do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError

from megacontext.config import PATH, DemoConfig, Section
from megacontext.errors import ConfigError
from megacontext.yaml_loader import parse_yaml

ENV_PREFIX = "MEGACONTEXT_"

ConfigT = TypeVar("ConfigT", bound=Section)


@dataclass(frozen=True)
class Override:
    """A value that outranks the file. `source` is what --print-config and messages say of it."""

    value: Any
    source: str


@dataclass(frozen=True)
class LoadedConfig(Generic[ConfigT]):
    """A config with its history. sources: dotted name -> where the value came from."""

    config: ConfigT
    run: str
    root: Path
    path: Path | None = None
    sources: Mapping[str, str] = field(default_factory=dict)


def load_config(
    path: str | Path | None,
    schema: type[ConfigT] = DemoConfig,  # type: ignore[assignment]
    *,
    overrides: Mapping[str, Override] | None = None,
    environ: Mapping[str, str] | None = None,
) -> LoadedConfig[ConfigT]:
    """Read `path` (None: defaults only), then the environment, then `overrides` (dotted name -> Override).

    Raises ConfigError: file not found (with what lies in configs/), not strict YAML, unknown name, wrong value.
    """
    file = None if path is None else _find(Path(path))
    values, sources = _from_file(file) if file else ({}, {})
    for name in _sections(schema):
        if values.get(name, {}) is None and not _optional(schema.model_fields[name].annotation):
            values[name] = {}  # `memory:` and nothing under it
    layers = _from_environment(schema, os.environ if environ is None else environ) | dict(overrides or {})
    for name, override in layers.items():
        _put(values, name, override.value, override.source)
        sources[name] = override.source
    config = _validate(schema, values, sources)
    root = project_root(file)
    return LoadedConfig(_resolve_paths(config, sources, root), file.stem if file else "default", root, file, sources)


def project_root(file: Path | None) -> Path:
    """The folder above the `configs` folder that holds `file`, else the current folder."""
    for folder in file.resolve().parents if file else ():
        if folder.name == "configs":
            return folder.parent
    return Path.cwd()


def parse_override(schema: type[Section], name: str, text: str, source: str) -> Override:
    """The text of a flag or variable as a value of field `name`: words for text fields, YAML for the others.

    Raises ConfigError if the schema has no such field.
    """
    annotation = _field(schema, name, source)
    if _takes_text(annotation):
        return Override(None if text in ("null", "none", "") and _optional(annotation) else text, source)
    return Override(parse_yaml(text, source).value, source)


def field_names(schema: type[Section]) -> list[str]:
    """All names of a schema: section.field, and those that stand outside any section."""
    sections = _sections(schema)
    outside = [name for name in schema.model_fields if name not in sections]
    return [f"{section}.{name}" for section, model in sections.items() for name in model.model_fields] + outside


def print_config(loaded: LoadedConfig[Any]) -> str:
    """The config as YAML that can be read again, each value with a comment that says where it came from."""
    lines = [f"# {loaded.path}" if loaded.path else "# defaults"]
    sections = _sections(type(loaded.config))
    for name, value in loaded.config.model_dump(mode="json").items():
        if name not in sections or value is None:
            lines.append(_setting(name, value, loaded.sources.get(name)))
            continue
        lines.append(f"{name}:")
        lines += [f"  {_setting(key, item, loaded.sources.get(f'{name}.{key}'))}" for key, item in value.items()]
    return "\n".join(lines) + "\n"


def _setting(name: str, value: Any, source: str | None) -> str:
    return f"{name}: {json.dumps(value, ensure_ascii=False)}  # {source or 'default'}"


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    folder = Path("configs")
    there = sorted(str(file.as_posix()) for file in folder.glob("**/*.yaml")) if folder.is_dir() else []
    near = get_close_matches(path.as_posix(), there, n=1, cutoff=0.5)
    choice = f"configs/ holds: {', '.join(there)}." if there else f"There is no folder configs in {Path.cwd()}."
    guess = f" Did you mean {near[0]}?" if near else ""
    raise ConfigError(f"config not found: {path}. {choice}{guess}")


def _from_file(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The file's values and, per dotted name, its file:line."""
    try:
        document = parse_yaml(file.read_bytes(), str(file))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}): check its permissions") from error
    values = {} if document.value is None else document.value
    if not isinstance(values, dict):
        raise ConfigError(f"{file}:1: a config is a mapping of sections, this is a {type(values).__name__}")
    lines = {".".join(map(str, path)): f"{file}:{line}" for path, line in document.lines.items() if path}
    return values, lines


def _from_environment(schema: type[Section], environ: Mapping[str, str]) -> dict[str, Override]:
    """MEGACONTEXT_MEMORY_BUDGET=512 -> memory.budget. Variables that name no section are someone else's."""
    found: dict[str, Override] = {}
    for variable in sorted(environ):
        words = variable.removeprefix(ENV_PREFIX).lower()
        section = max((name for name in _sections(schema) if words.startswith(f"{name}_")), key=len, default="")
        name = words.removeprefix(f"{section}_")
        if variable.startswith(ENV_PREFIX) and section and name:
            dotted, source = f"{section}.{name}", f"environment {variable}"
            found[dotted] = parse_override(schema, dotted, environ[variable], source)
    return found


def _put(values: dict[str, Any], name: str, value: Any, source: str) -> None:
    section, _, key = name.rpartition(".")
    if section and values.get(section) is None:
        values[section] = {}
    inner = values[section] if section else values
    if not isinstance(inner, dict):
        raise ConfigError(f"{source}: {section} is not a section in the file")
    inner[key] = value


def _validate(schema: type[ConfigT], values: dict[str, Any], sources: Mapping[str, str]) -> ConfigT:
    try:
        return schema.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problems = [_explain(schema, dict(problem), sources) for problem in error.errors()]
        raise ConfigError("\n".join(problems)) from None


def _explain(schema: type[Section], problem: dict[str, Any], sources: Mapping[str, str]) -> str:
    """One problem: where, the value, the rule, the way out."""
    location = [str(part) for part in problem["loc"]]
    name = ".".join(location)
    outwards = (".".join(location[:end]) for end in range(len(location), 0, -1))
    where = next((sources[key] for key in outwards if key in sources), "?")
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key {name}.{_nearest(schema, name)}"
    return f"{where}: {name}: {problem['msg']}, got {json.dumps(problem['input'])}"


def _nearest(schema: type[Section], name: str) -> str:
    """' Did you mean ...?' and what there is instead."""
    *path, key = name.split(".")
    inner = _schema_at(schema, path)
    if inner is None:
        choices = list(schema.model_fields)
        near = get_close_matches(path[0], choices, n=1, cutoff=0.5)
    else:
        prefix = "".join(f"{part}." for part in path)
        choices = [prefix + field for field in inner.model_fields]
        near = [prefix + field for field in get_close_matches(key, inner.model_fields, n=1, cutoff=0.6)]
        near = near or _elsewhere(schema, key)
    return f" Did you mean {near[0]}?" if near else f" Known: {', '.join(choices)}."


def _schema_at(schema: type[Section], path: Sequence[str]) -> type[Section] | None:
    """The section that the beginning of a dotted name leads to, through mappings and lists of sections, too."""
    inner: type[Section] | None = schema
    is_key = False  # of a mapping, or an index
    for part in path:
        if is_key:
            is_key = False
            continue
        info = inner.model_fields.get(part) if inner else None
        inner = _section_in(info.annotation) if info else None
        is_key = info is not None and any(get_origin(kind) in (dict, tuple) for kind in _branches(info.annotation))
    return inner


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def _branches(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _elsewhere(schema: type[Section], key: str) -> list[str]:
    """A field of that name in another section."""
    by_key = {dotted.rpartition(".")[2]: dotted for dotted in field_names(schema)}
    return [by_key[near] for near in get_close_matches(key, by_key, n=1, cutoff=0.7)]


def _field(schema: type[Section], name: str, source: str) -> Any:
    """The annotation of a dotted name."""
    section, _, key = name.rpartition(".")
    model = _sections(schema).get(section) if section else schema
    if model is None or key not in model.model_fields:
        raise ConfigError(f"{source}: unknown key {name}.{_nearest(schema, name)}")
    return model.model_fields[key].annotation


def _sections(schema: type[Section]) -> dict[str, type[Section]]:
    """The fields that are sections, or may be."""
    fields = [(name, kind) for name, info in schema.model_fields.items() for kind in _branches(info.annotation)]
    return {name: kind for name, kind in fields if isinstance(kind, type) and issubclass(kind, Section)}


def _takes_text(annotation: Any) -> bool:
    """str, a Literal of words, or a union with one of them."""
    kind = get_origin(annotation)
    if kind is Literal:
        return isinstance(get_args(annotation)[0], str)
    return annotation is str or (kind in (Union, UnionType) and any(map(_takes_text, get_args(annotation))))


def _optional(annotation: Any) -> bool:
    return type(None) in get_args(annotation)


def _resolve_paths(config: ConfigT, sources: Mapping[str, str], root: Path, section: str = "") -> ConfigT:
    """Absolute paths: a file's and the defaults' from the project root, the others from the current folder."""
    changed: dict[str, Any] = {}
    for name, info in type(config).model_fields.items():
        value, dotted = getattr(config, name), f"{section}{name}"
        if isinstance(value, Section):
            changed[name] = _resolve_paths(value, sources, root, f"{dotted}.")
        elif PATH in info.metadata and value is not None:
            changed[name] = _absolute(value, sources.get(dotted, ""), root)
    return config.model_copy(update=changed)


def _absolute(path: str, source: str, root: Path) -> str:
    base = Path.cwd() if source.startswith(("flag", "environment")) else root
    return str(base / Path(path).expanduser())
