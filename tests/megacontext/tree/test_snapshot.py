"""A snapshot gives back what was put into it, or says why not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from megacontext.tree import snapshot

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool)


def tensors() -> dict[str, torch.Tensor]:
    """Of every dtype, and of shapes that are easily got wrong."""
    found = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in DTYPES}
    return {**found, "none": torch.zeros(0, 3), "one": torch.tensor(3.0), "é": torch.ones(1, 1)}


def test_the_payload_is_a_safetensors_file():
    made, metadata = tensors(), {"state": '{"a": "é"}'}
    data = snapshot._safetensors(made, metadata)
    found = load(data)
    assert found.keys() == made.keys()
    assert all(torch.equal(tensor, made[name]) and tensor.dtype == made[name].dtype for name, tensor in found.items())
    assert len(data) == len(save(made, metadata))
    few = {name: made[name] for name in ("torch.float32", "torch.int64", "one")}
    assert snapshot._safetensors(few, metadata) == save(few, metadata)


def test_a_state_comes_back_with_its_values_arrays_and_nesting(tmp_path):
    state = {
        "a": {
            "b": [1, None, "x"],
            "c": torch.eye(3)[1:, :2],
            "d": np.arange(4)[::-2],
            "empty": np.zeros((0, 3), np.int64),
        },
        "t": torch.arange(6).reshape(2, 3).t(),
        "wide": torch.ones(1).expand(4),
    }
    snapshot.write(tmp_path / "view.snap", snapshot.pack(state, "f"))
    found, why = snapshot.read(tmp_path / "view.snap", "f")
    assert why == ""
    assert found["a"]["b"] == [1, None, "x"]
    assert torch.equal(found["a"]["c"], state["a"]["c"])
    assert found["a"]["d"].tolist() == [3, 1]
    assert found["a"]["empty"].shape == (0, 3)
    assert torch.equal(found["t"], state["t"])
    assert found["wide"].tolist() == [1, 1, 1, 1]


def test_a_number_that_json_has_not_is_no_state():
    with pytest.raises(ValueError, match="JSON"):
        snapshot.pack({"a": float("nan")}, "f")


def test_no_file_is_no_snapshot_and_no_trouble(tmp_path):
    assert snapshot.read(tmp_path / "view.snap", "f") == (None, "")
    (tmp_path / "view.snap").mkdir()
    state, why = snapshot.read(tmp_path / "view.snap", "f")
    assert state is None
    assert "cannot be read" in why
