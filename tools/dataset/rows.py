"""Examples as a safetensors file that can be written a few rows at a time, in place, and gone on with.

The library's own writer wants all tensors in memory. The format is small enough to write by hand
(huggingface/safetensors, "Format"): 8 bytes, the header's length as an unsigned little-endian integer; the header, JSON
padded with spaces; then the tensors, without gaps, row-major, little-endian. A row is one example:

context_input_ids (C,) I64   context_attention_mask (C,) I8   teacher_context_hidden (C, D) F32, F16 or BF16
future_input_ids (H,) I64    future_attention_mask (H,) I8    teacher_future_hidden (H, D)  the same

C context tokens, H horizon tokens, D the teacher's width; without a teacher its two tensors are left out. Attention
masks are all ones. The header's length is a multiple of 8, so that every tensor can be mapped from disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import prod
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

LENGTH = 8  # bytes that hold the header's length
NUMPY = {"I64": "<i8", "I8": "i1", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # numpy has no bfloat16: its bits
HIDDEN = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # torch's name -> safetensors'


class Column(NamedTuple):
    """One tensor. dtype: safetensors' name of it; shape: of one row."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return np.dtype(NUMPY[self.dtype]).itemsize * prod(self.shape)


def columns_of(context: int, horizon: int, width: int = 0, hidden: str = "float32") -> tuple[Column, ...]:
    """The tensors of a split: sizes in tokens, the teacher's width (0: no teacher) and its number format."""
    parts = (("context", context), ("future", horizon))
    ids = [Column(f"{part}_input_ids", "I64", (tokens,)) for part, tokens in parts]
    teacher = [Column(f"teacher_{part}_hidden", HIDDEN[hidden], (tokens, width)) for part, tokens in parts if width]
    masks = [Column(f"{part}_attention_mask", "I8", (tokens,)) for part, tokens in parts]
    return (*ids, *teacher, *masks)


class RowFile:
    """`rows` examples in the file at `path`. metadata: texts that its header carries along."""

    def __init__(self, path: Path, columns: Sequence[Column], rows: int, metadata: Mapping[str, str]) -> None:
        self.path, self.columns, self.rows, self.metadata = path, tuple(columns), rows, dict(metadata)
        ends = [0, *accumulate(rows * column.row_bytes for column in self.columns)]
        self._header = self._make_header(ends)
        self._places = {column.name: len(self._header) + end for column, end in zip(self.columns, ends, strict=False)}
        self.size = len(self._header) + ends[-1]

    def _make_header(self, ends: Sequence[int]) -> bytes:
        entries: dict[str, object] = {"__metadata__": self.metadata}
        for column, start, stop in zip(self.columns, ends, ends[1:], strict=False):
            shape = [self.rows, *column.shape]
            entries[column.name] = {"dtype": column.dtype, "shape": shape, "data_offsets": [start, stop]}
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(LENGTH, "little") + text

    def exists(self) -> bool:
        """Whether the file at `path` was begun for exactly these rows."""
        if not self.path.is_file() or self.path.stat().st_size != self.size:
            return False
        with self.path.open("rb") as file:
            return file.read(len(self._header)) == self._header

    def create(self) -> None:
        """An empty file of the full size; rows to come are holes, which take no space where the system knows such."""
        with self.path.open("wb") as file:
            file.write(self._header)
            file.truncate(self.size)

    def place(self, column: Column, row: int) -> int:
        """The byte of the file where `row` of `column` begins."""
        return self._places[column.name] + row * column.row_bytes

    def read(self, column: Column, first: int, stop: int) -> np.ndarray:
        """Rows [first, stop) of a tensor, (stop - first, ...)."""
        count = (stop - first) * prod(column.shape)
        values = np.fromfile(self.path, NUMPY[column.dtype], count, offset=self.place(column, first))
        return values.reshape(stop - first, *column.shape)


class RowWriter:
    """Puts rows where they belong in a RowFile that `exists`."""

    def __init__(self, file: RowFile) -> None:
        self._rows = file
        self._file = file.path.open("r+b")

    def write(self, first: int, values: Mapping[str, np.ndarray]) -> None:
        """Rows from `first` on: name -> (n, ...) for every column."""
        for column in self._rows.columns:
            self._file.seek(self._rows.place(column, first))
            self._file.write(np.ascontiguousarray(values[column.name], dtype=NUMPY[column.dtype]).tobytes())

    def sync(self) -> None:
        """Make the rows so far durable."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
