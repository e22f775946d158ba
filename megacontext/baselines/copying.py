"""Copies and bytes of whatever a cache holds: tensors, arrays, and the plain containers and parts around them.

A part is an object whose class has `is_part = True`: it belongs to one cache alone, so a fork needs its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor


def copied(value: Any) -> Any:
    """An independent copy; what is neither tensor, array, container nor part is shared."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, deque):
        return deque(map(copied, value), value.maxlen)
    if type(value) in (list, tuple, set):
        return type(value)(copied(item) for item in value)
    if getattr(value, "is_part", False):
        twin = object.__new__(type(value))
        twin.__dict__ = copied(value.__dict__)
        return twin
    return value


def tensors(value: Any) -> Iterator[Tensor | np.ndarray]:
    """Every tensor and array in it."""
    if isinstance(value, (Tensor, np.ndarray)):
        yield value
    elif isinstance(value, dict):
        yield from _of_all(value.values())
    elif isinstance(value, (list, tuple, set, deque)):
        yield from _of_all(value)
    elif getattr(value, "is_part", False):
        yield from _of_all(value.__dict__.values())


def _of_all(values: Iterable[Any]) -> Iterator[Tensor | np.ndarray]:
    for value in values:
        yield from tensors(value)


def held_bytes(*values: Any) -> int:
    """Bytes of the distinct storages: what they really occupy, padding included."""
    sizes: dict[int, int] = {}
    for found in _of_all(values):
        if isinstance(found, Tensor):
            storage = found.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        else:
            sizes[id(found)] = found.nbytes
    return sum(sizes.values())
