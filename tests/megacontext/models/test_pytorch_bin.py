"""Files of torch.save: what is read, and what is refused without being run."""

from __future__ import annotations

import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
from gpt2_files import reference, write_bin

from megacontext.config import ModelConfig
from megacontext.errors import MegaContextError
from megacontext.models import load_model
from megacontext.models.base import ModelFileError
from megacontext.models.folder import Folder
from megacontext.models.pytorch_bin import PytorchBin
from nanochat.kv_cache import NoCache

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")
RAN = []


class Trap:
    """Runs when it is unpickled, if anybody lets it."""

    def __reduce__(self):
        return RAN.append, (1,)


def saved(path: Path, content: object, *, zipped: bool = True) -> Path:
    file = path / "pytorch_model.bin"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_come_back_as_they_were(tmp_path, zipped):
    weights = {"a": torch.randn(3, 4), "b": torch.arange(5).half(), "c": torch.nn.Parameter(torch.ones(2)), "step": 7}
    files = PytorchBin([saved(tmp_path, weights, zipped=zipped)])
    assert set(files.names) == {"a", "b", "c"}
    assert torch.equal(files.tensor("a"), weights["a"])
    assert files.shape("a") == (3, 4)
    assert [files.stored_as(name) for name in "ab"] == ["F32", "F16"]
    assert not files.tensor("c").requires_grad


def test_shards_are_found_by_the_index(tmp_path):
    theirs = reference()
    write_bin(tmp_path, theirs, masks=False)
    weights = torch.load(tmp_path / "pytorch_model.bin")
    shards = {"pytorch_model-1.bin": {}, "pytorch_model-2.bin": {}}
    place = dict(zip(weights, list(shards) * len(weights), strict=False))
    for name, weight in weights.items():
        shards[place[name]][name] = weight
    for name, part in shards.items():
        torch.save(part, tmp_path / name)
    (tmp_path / "pytorch_model.bin").unlink()
    (tmp_path / "pytorch_model.bin.index.json").write_text(str({"weight_map": place}).replace("'", '"'))
    folder = Folder(tmp_path)
    for name, weight in weights.items():
        assert torch.equal(folder._files.tensor(name), weight)


def test_a_llama_folder_is_read_from_them_too(tmp_path):
    import llama_files

    theirs, tokens = llama_files.reference(), llama_files.tokens_of(20)
    (llama_files.write_folder(tmp_path, theirs) / "model.safetensors").unlink()
    saved(tmp_path, theirs.state_dict())
    model = load_model(ModelConfig(path=str(tmp_path), dtype="float32", device="cpu")).model
    with torch.inference_mode():
        ours = model.logits(model.forward(model.embed(tokens), NoCache(model.spec)))
        torch.testing.assert_close(ours, theirs(tokens).logits, atol=1e-4, rtol=0)


def test_the_fingerprint_is_that_of_the_contents(tmp_path):
    one, other = torch.randn(2000, 3), torch.randn(2000, 3)
    samples = []
    for content in ({"a": one}, {"a": other}, {"b": one}, {"a": one.view(3, 2000)}, {"a": one}):
        samples.append(PytorchBin([saved(tmp_path, content)]).samples())
    assert samples[0] == samples[4]
    assert all(samples[0] != found for found in samples[1:4])
    assert sum(map(len, samples[0])) < 10_000


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused_and_not_run(tmp_path, zipped):
    file = saved(tmp_path, {"a": torch.ones(2), "b": Trap()}, zipped=zipped)
    with pytest.raises(ModelFileError, match=r"pytorch_model\.bin: it asks for more than plain tensors.*safetensors"):
        PytorchBin([file])
    assert RAN == []


def test_a_bare_pickle_that_would_run_code_is_refused_and_not_run(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(pickle.dumps({"a": Trap()}))
    with pytest.raises(ModelFileError, match=r"pytorch_model\.bin"):
        PytorchBin([file])
    assert RAN == []


@pytest.mark.parametrize("content", [[torch.ones(2)], torch.ones(2), {1: torch.ones(2)}, "weights"])
def test_anything_but_tensors_by_name_is_refused(tmp_path, content):
    with pytest.raises(ModelFileError, match="expected tensors by name"):
        PytorchBin([saved(tmp_path, content)])


@pytest.mark.parametrize(
    "tensor",
    [torch.eye(3).to_sparse(), torch.ones(1).expand(1 << 40), torch.ones(2, device="meta"), torch.ones(2) * 1j],
    ids=["sparse", "expanded", "meta", "complex"],
)
def test_a_tensor_that_is_not_plain_is_refused(tmp_path, tensor):
    with pytest.raises(ModelFileError, match=r"pytorch_model\.bin"):
        PytorchBin([saved(tmp_path, {"a": tensor})])


def test_a_missing_file_and_a_missing_tensor_are_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"pytorch_model\.bin: missing"):
        PytorchBin([tmp_path / "pytorch_model.bin"])
    with pytest.raises(ModelFileError, match=r"pytorch_model\.bin: no tensor 'b'"):
        PytorchBin([saved(tmp_path, {"a": torch.ones(2)})]).tensor("b")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("left", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_named(tmp_path, zipped, left):
    file = saved(tmp_path, {"a": torch.randn(300, 30)}, zipped=zipped)
    raw = file.read_bytes()
    file.write_bytes(raw[: int(left * len(raw))])
    with pytest.raises(ModelFileError, match=r"pytorch_model\.bin: not a well-formed file"):
        PytorchBin([file])


@pytest.mark.parametrize("content", [b"\xff" * 64, b"<html>", b"PK\x03\x04" + b"\x00" * 64, b"\x80\x02."])
def test_noise_is_named(tmp_path, content):
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"pytorch_model\.bin"):
        PytorchBin([file])


def test_a_zip_of_something_else_is_named(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/notes.txt", "no weights")
    with pytest.raises(ModelFileError, match=r"pytorch_model\.bin"):
        PytorchBin([file])


@pytest.mark.parametrize("zipped", [True, False])
def test_flipped_bytes_are_read_or_refused(tmp_path, zipped):
    """Contents are not checked; whatever else is hit gives our error and no other."""
    file = saved(tmp_path, {"a": torch.randn(8, 4), "b": torch.ones(3)}, zipped=zipped)
    raw, rng, refused = file.read_bytes(), random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(raw)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        try:
            PytorchBin([file]).samples()
        except MegaContextError:
            refused += 1
    assert refused > 20
