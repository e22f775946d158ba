"""metadata.yaml: what a data set consists of, and what it was made of. Earlier readers' keys, and hashes.

An entry of `splits` carries the fingerprint of everything its file depends on: settings, models, texts. A file whose
entry has today's fingerprint is not made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megacontext.errors import ConfigError
from megacontext.yaml_loader import parse_yaml
from nanochat.files import atomic_write
from tools.dataset.documents import Source
from tools.dataset.models import ModelFiles
from tools.dataset.settings import Job, SplitJob

FORMAT = 1  # of the examples; another number makes everything anew

SAID = {"documents", "contexts", "examples", "teacher_hidden_size", "teacher_dtype"}  # of a split, on the terminal

Entry = dict[str, Any]


def fingerprint(parts: object) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def settings_print(job: Job, tokenizer: ModelFiles, teacher: ModelFiles | None) -> str:
    """Of all that the splits of a data set have in common. How a teacher computes matters only if there is one."""
    config = job.config
    sizes = (config.block_size, config.context_tokens, config.stride, config.horizon)
    computing = (config.teacher_batch_size, config.teacher_dtype or "auto", config.teacher_device)
    return fingerprint([FORMAT, sizes, tokenizer.sha256, teacher and (teacher.sha256, computing)])


def split_print(settings: str, split: SplitJob, sources: Sequence[Source]) -> str:
    """Of all that the file of a split depends on. Names of texts do not matter, their order does."""
    return fingerprint([settings, split.limit, split.output.suffix, [source.sha256 for source in sources]])


class Metadata:
    """The file at `path`. settings: today's fingerprint of all that the splits have in common.

    splits: as the file has them, {} if it is missing or damaged; trouble: what is wrong with it.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self.path, self.settings = path, settings
        self.trouble = ""
        self.splits: dict[str, Entry] = self._read()

    def _read(self) -> dict[str, Entry]:
        try:
            document = parse_yaml(self.path.read_bytes(), str(self.path)).value
        except FileNotFoundError:
            return {}
        except (OSError, ConfigError) as error:
            self.trouble = str(error)
            return {}
        splits = document.get("splits") if isinstance(document, dict) else None
        entries = splits if isinstance(splits, dict) else {}
        return {name: entry for name, entry in entries.items() if isinstance(entry, dict)}

    def current(self, split: SplitJob, wanted: str) -> Entry | None:
        """The entry of a split whose file is there and would come out the same."""
        entry = self.splits.get(split.name, {})
        there = split.output.is_file() and split.output.stat().st_size == entry.get("output_bytes")
        same = entry.get("fingerprint") == wanted and entry.get("output_path") == self.relative(split.output)
        return entry if there and same and entry.keys() >= SAID else None

    def relative(self, path: Path) -> str:
        """`path` as seen from the metadata's folder; as it is where there is no way, as between two drives."""
        try:
            return Path(os.path.relpath(path, self.path.parent)).as_posix()
        except ValueError:
            return path.as_posix()

    def outdated(self, names: Sequence[str]) -> list[str]:
        """Splits that other settings made, or that are not among `names` any more."""
        return [name for name, e in self.splits.items() if e.get("settings") != self.settings or name not in names]

    def add(self, split: SplitJob, entry: Entry, names: Sequence[str]) -> None:
        """A split that was made just now; what is outdated goes. names: all splits there are."""
        self.splits = {name: old for name, old in self.splits.items() if name not in self.outdated(names)}
        self.splits[split.name] = entry

    @property
    def teacher_dtype(self) -> str | None:
        """The number format of the hidden states, where all splits have one."""
        kinds = {entry.get("teacher_dtype") for entry in self.splits.values()}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    def write(self, job: Job, tokenizer: ModelFiles, teacher: ModelFiles | None) -> None:
        """Replace the file."""
        import yaml

        text = yaml.safe_dump(self._values(job, tokenizer, teacher), sort_keys=False, allow_unicode=True)
        with atomic_write(self.path) as file:
            file.write(text.encode())

    def _values(self, job: Job, tokenizer: ModelFiles, teacher: ModelFiles | None) -> dict[str, Any]:
        config = job.config
        return {
            "dataset_name": config.dataset_name,
            "tokenizer": job.tokenizer,
            "block_size": config.block_size,
            "context_tokens": config.context_tokens,
            "context_stride": config.stride,
            "horizon": config.horizon,
            "teacher_model": job.teacher,
            "teacher_dtype": self.teacher_dtype,
            "teacher_dtype_config": config.teacher_dtype,
            "splits": self.splits,
            "format": FORMAT,
            "tokenizer_sha256": tokenizer.sha256,
            "teacher_sha256": teacher and teacher.sha256,
            "teacher_seeded": bool(teacher and teacher.seeded),
        }
