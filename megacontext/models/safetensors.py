"""Weights in one or more *.safetensors files, mapped into memory. Knows neither families nor config.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megacontext.models.base import SAMPLE, ModelFileError

if TYPE_CHECKING:
    from torch import Tensor


class Safetensors:
    """Implements `folder.WeightFiles`. Raises ModelFileError for a file that is missing or damaged."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._shards = {file: _open(file) for file in files}
        self.names = {name: shard for shard in self._shards.values() for name in shard.keys()}  # noqa: SIM118

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def stored_as(self, name: str) -> str:
        return str(self._slice(name).get_dtype())

    def tensor(self, name: str) -> Tensor:
        self._slice(name)
        return self.names[name].get_tensor(name)

    def samples(self) -> list[bytes]:
        return [part for file in sorted(self._shards) for part in _samples(file)]

    def _slice(self, name: str) -> Any:
        if name not in self.names:
            raise ModelFileError(f"{', '.join(map(str, self._shards))}: no tensor {name!r}; fetch the folder again")
        return self.names[name].get_slice(name)


def _open(file: Path) -> Any:
    """Maps a shard; the library checks the header against the file's size."""
    from safetensors import SafetensorError, safe_open

    try:
        with ExitStack() as stack:
            shard = stack.enter_context(safe_open(file, framework="pt"))
            stack.pop_all()  # stays open for as long as this object lives
            return shard
    except FileNotFoundError:
        raise ModelFileError(f"{file}: missing; fetch the folder again") from None
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{file}: not a well-formed safetensors file ({error}); fetch it again") from None


def _samples(file: Path) -> list[bytes]:
    """The header of an opened (so: well-formed) shard, and both ends of each of its tensors."""
    with file.open("rb") as data:
        header = data.read(int.from_bytes(data.read(8), "little"))
        start, parts = data.tell(), [header]
        for name, info in sorted(json.loads(header).items()):
            if name == "__metadata__":
                continue
            first, last = info["data_offsets"]
            for at in (first, max(first, last - SAMPLE)):
                data.seek(start + at)
                parts.append(data.read(min(SAMPLE, last - first)))
    return parts
