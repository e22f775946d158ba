"""How many bytes an object really holds on to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanochat.hook import ModelSpec

LEAVES = (str, bytes, int, float, complex, type, torch.dtype, torch.device, torch.nn.Module, ModelSpec)


def held_bytes(root: object, *, apart: Iterable[object] = ()) -> int:
    """Bytes of all distinct tensor storages and arrays that can be reached from `root`.

    What belongs to the model is left out: modules, the ModelSpec, and what is named in `apart`, such as rotary tables.
    """
    sizes: dict[int, int] = {}
    seen = {id(item) for item in apart}
    waiting: deque[object] = deque([root])
    while waiting:
        item = waiting.popleft()
        if id(item) in seen or item is None or isinstance(item, LEAVES):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, np.ndarray):
            sizes[id(item)] = item.nbytes
        else:
            waiting.extend(_parts(item))
    return sum(sizes.values())


def _parts(item: Any) -> Iterator[object]:
    if isinstance(item, dict):
        yield from item.values()
    elif isinstance(item, (list, tuple, set, frozenset, deque)):
        yield from item
    yield from getattr(item, "__dict__", {}).values()
    for kind in type(item).__mro__:
        slots = getattr(kind, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            yield getattr(item, name, None)
