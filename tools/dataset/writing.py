"""From tokens to examples: the rows of a split, in batches counted from its first example.

An interrupted run goes on at a batch, so that the bytes do not depend on interruptions.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np

from megacontext.errors import ConfigError
from tools.dataset.documents import Advance
from tools.dataset.examples import Examples, Read
from tools.dataset.rows import RowFile, RowWriter
from tools.dataset.work import Clock, Work

if TYPE_CHECKING:
    from tools.dataset.models import Teacher

PLAIN_BATCH = 512  # examples of a step without a teacher


def begin_rows(work: Work, file: RowFile, *, copies: int) -> None:
    """Make `file` ready for the rows that `work` lacks. copies: files of its size that will be there at once.

    Raises ConfigError if the disk has no room for them.
    """
    if file.exists():
        return
    work.rows = 0
    work.save()
    need, free = copies * file.size, shutil.disk_usage(work.folder).free
    if need > free:
        raise ConfigError(
            f"{file.rows:,} examples need {need / 1e9:.1f} GB on disk, {free / 1e9:.1f} GB are free at "
            f"{work.output.parent}; set max_tokens, raise context_stride, or change output_path"
        )
    file.create()


def write_rows(
    work: Work,
    file: RowFile,
    examples: Examples,
    read: Read,
    *,
    context: int,
    teacher: Teacher | None,
    batch: int,
    advance: Advance,
) -> None:
    """Every example that is not durable yet. read: ids of all documents. context: tokens of one."""
    step, clock = PLAIN_BATCH if teacher is None else batch, Clock()
    with RowWriter(file) as writer:
        for first in range(work.rows, len(examples), step):
            stop = min(first + step, len(examples))
            writer.write(first, _values(examples.gather(read, first, stop), context, teacher))
            advance(stop - first)
            if clock.rings() or stop == len(examples):
                writer.sync()
                work.rows = stop
                work.save()


def _values(ids: np.ndarray, context: int, teacher: Teacher | None) -> dict[str, np.ndarray]:
    """ids (n, tokens of an example) -> the rows of each column."""
    parts = {"context": slice(None, context), "future": slice(context, None)}
    values: dict[str, np.ndarray] = {}
    for part, where in parts.items():
        values[f"{part}_input_ids"] = ids[:, where]
        values[f"{part}_attention_mask"] = np.ones_like(ids[:, where], dtype=np.int8)
    if teacher is not None:
        hidden = teacher.hidden(ids)
        values |= {f"teacher_{part}_hidden": hidden[:, where] for part, where in parts.items()}
    return values
