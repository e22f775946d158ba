"""Examples as an Arrow IPC file, in the six columns and types that earlier readers know. The one place of pyarrow.

ids list<int64>, attention masks list<int8>, hidden states list<list<float>> or list<list<halffloat>>; without a teacher
the last are empty lists. Arrow has no bfloat16: such states are widened to float32, which loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, BinaryIO

import numpy as np

from megacontext.errors import MissingAsset
from tools.dataset.rows import Column, RowFile

BATCH_ROWS = 1024
BATCH_VALUES = 1 << 23  # bounds the memory of a batch, and keeps its 32-bit offsets in range
ORDER = tuple(
    name
    for kind in ("{}_input_ids {}_attention_mask", "teacher_{}_hidden")
    for part in ("context", "future")
    for name in kind.format(part, part).split()
)


def require() -> Any:
    """The library. Raises MissingAsset if it is not installed."""
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise MissingAsset(
            "writing .arrow needs pyarrow: pip install 'megacontext[data]', "
            "or give output_path the suffix .safetensors, which needs nothing more"
        ) from error
    return pyarrow


def stored_dtype(dtype: str) -> str:
    """The number format in which Arrow keeps hidden states that were computed in `dtype`."""
    return "float32" if dtype == "bfloat16" else dtype


def write_arrow(file: BinaryIO, rows: RowFile, advance: Callable[[int], None]) -> None:
    """All rows, in record batches of a size that only the columns decide. advance: told of rows that are done."""
    arrow = require()
    columns = {column.name: column for column in rows.columns}
    schema = arrow.schema([(name, _type(arrow, columns.get(name))) for name in ORDER], metadata=rows.metadata)
    step = max(1, min(BATCH_ROWS, BATCH_VALUES // max(prod(column.shape) for column in rows.columns)))
    with arrow.ipc.new_file(file, schema) as writer:
        for first in range(0, rows.rows, step):
            stop = min(first + step, rows.rows)
            arrays = [_array(arrow, rows, columns.get(name), first, stop) for name in ORDER]
            writer.write_batch(arrow.record_batch(arrays, schema=schema))
            advance(stop - first)


def _type(arrow: Any, column: Column | None) -> Any:
    """list<int64>, list<int8> or list<list<float>>. None: hidden states of no teacher."""
    kinds = {"I64": arrow.int64(), "I8": arrow.int8(), "F16": arrow.float16()}
    if column is None:
        return arrow.list_(arrow.list_(arrow.float32()))
    value = arrow.list_(kinds.get(column.dtype, arrow.float32()))
    return value if len(column.shape) == 1 else arrow.list_(value)


def _array(arrow: Any, rows: RowFile, column: Column | None, first: int, stop: int) -> Any:
    if column is None:
        return arrow.array([[]] * (stop - first), type=_type(arrow, None))
    values = rows.read(column, first, stop)
    if column.dtype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    array = arrow.array(values.reshape(-1))
    for size in reversed(column.shape):
        offsets = np.arange(0, len(array) + 1, size, dtype=np.int32)
        array = arrow.ListArray.from_arrays(arrow.array(offsets), array)
    return array
