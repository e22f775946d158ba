"""Where a model named `owner/name` is looked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from megacontext.errors import MissingAsset
from tools.bootstrap.tiny_gpt2 import MODEL, SEEDED
from tools.legacy.models import STAND_INS, FoundModel, find_model, hub_cache


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, with the current folder elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "project"


def put(folder: Path, weights: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    (folder / weights).touch()
    return folder


def cache(root: Path) -> dict[str, str]:
    return {"HF_HOME": str(root / "hf")}


def snapshot(root: Path, revision: str, weights: str = "model.safetensors") -> Path:
    return put(root / "hf" / "hub" / "models--a--b" / "snapshots" / revision, weights)


def test_what_bootstrap_brought_comes_first(root: Path) -> None:
    snapshot(root, "r1")
    mine = put(root / "artifacts" / "models" / "a--b", "pytorch_model.bin")
    assert find_model("a/b", root, cache(root)) == FoundModel(mine)


def test_the_cache_of_hugging_face_is_looked_into(root: Path) -> None:
    old, new = snapshot(root, "r1"), snapshot(root, "r2")
    os.utime(old, (1, 1))
    assert find_model("a/b", root, cache(root)).path == new
    refs = root / "hf" / "hub" / "models--a--b" / "refs"
    refs.mkdir()
    (refs / "main").write_text("r1\n", encoding="utf-8")
    assert find_model("a/b", root, cache(root)).path == old


def test_a_snapshot_with_a_tokenizer_alone_is_no_model(root: Path) -> None:
    snapshot(root, "r1", "tokenizer.json")
    with pytest.raises(MissingAsset):
        find_model("a/b", root, cache(root))


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"HF_HUB_CACHE": "x/y", "HF_HOME": "z"}, Path("x/y")),
        ({"HF_HOME": "z"}, Path("z/hub")),
        ({"XDG_CACHE_HOME": "c"}, Path("c/huggingface/hub")),
        ({}, Path("~/.cache/huggingface/hub").expanduser()),
    ],
)
def test_the_cache_is_where_its_variables_say(environ: dict[str, str], folder: Path) -> None:
    assert hub_cache(environ) == folder


def test_a_path_counts_from_the_project_then_from_here(root: Path) -> None:
    here = put(Path.cwd() / "m")
    assert find_model("m", root, {}).path == here
    assert find_model("m", root, {}).path != put(root / "m") == find_model("./m", root, {}).path
    assert find_model(str(here), root, {}).path == here


def test_the_stand_in_serves_one_name_and_says_so(root: Path) -> None:
    assert {MODEL: SEEDED} == STAND_INS
    made_up = put(root / "artifacts" / "models" / SEEDED)
    assert find_model(MODEL, root, cache(root)) == FoundModel(made_up, seeded=True)
    real = put(root / "artifacts" / "models" / "sshleifer--tiny-gpt2")
    assert find_model(MODEL, root, cache(root)) == FoundModel(real)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a/b", "python tools/bootstrap_env.py --hub a/b"),
        ("a/b", "HF_TOKEN"),
        ("a/b", "a--b"),
        (MODEL, "--only tiny-gpt2"),
        ("./m", "no model at ./m"),
        ("a/b/c", "owner/name"),
        ("m.gguf", "no model at m.gguf"),
    ],
)
def test_a_model_that_is_not_here_is_named_with_the_way_to_get_it(root: Path, name: str, words: str) -> None:
    with pytest.raises(MissingAsset, match=r"not here|no model at") as caught:
        find_model(name, root, cache(root))
    assert words in str(caught.value)
