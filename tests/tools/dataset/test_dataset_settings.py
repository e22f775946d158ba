"""Which keys there are, what their rules are, and where outputs go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dataset_toys import SIZES, write

from megacontext.errors import ConfigError
from tools.dataset.settings import Job, read_job

SPLIT = {"source": "../texts/*.txt", "output_path": "../data/toy/train.arrow"}
DATASET = {"dataset_name": "toy", "tokenizer": "a/b", "splits": {"train": SPLIT}}


def job(root: Path, dataset: dict[str, Any], *sets: str, base: Any = None, **environ: str) -> Job:
    file = write(root, {"dataset": dataset} | ({} if base is None else {"base_model": base}))
    return read_job(file, environ, assignments=sets)


def refusal(root: Path, dataset: dict[str, Any], *sets: str, base: Any = None, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        job(root, dataset, *sets, base=base, **environ)
    return str(caught.value)


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in DATASET.items() if key not in keys}


# --- keys ---


def test_the_defaults_are_the_earlier_ones(tmp_path: Path) -> None:
    config = job(tmp_path, DATASET).config
    assert (config.block_size, config.context_tokens, config.context_stride, config.horizon) == (32, 4096, None, 64)
    assert (config.teacher_model, config.teacher_batch_size, config.teacher_trust_remote_code) == (None, 4, False)
    assert (config.teacher_dtype, config.teacher_device) == ("auto", "auto")
    assert config.stride == 4096


def test_a_configuration_survives_being_written_and_read(tmp_path: Path) -> None:
    first = job(tmp_path, {**DATASET, **SIZES, "teacher_model": "c/d", "teacher_device": "cpu"}).config
    assert job(tmp_path, first.model_dump(mode="json")).config == first


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"horizon": 65}, "horizon must be a multiple of block_size, which is 32, got 65"),
        ({"context_tokens": 100}, "context_tokens must be a multiple of block_size"),
        ({"context_stride": 33}, "context_stride must be a multiple of block_size"),
        ({"block_size": 0}, "block_size: Input should be greater than or equal to 1"),
        ({"teacher_batch_size": 0}, "teacher_batch_size"),
        ({"splits": {}}, "splits"),
        ({"splits": {"train": {**SPLIT, "output_path": "out.parquet"}}}, "end with one of .arrow, .safetensors"),
        ({"splits": {"train": {**SPLIT, "name": "test"}}}, "Split key 'train' must match split.name 'test'"),
        ({"splits": {"train": {**SPLIT, "max_files": 0}}}, "max_files"),
        ({"splits": {"train": {**SPLIT, "max_token": 5}}}, "unknown key"),
        ({"splits": {"train": SPLIT, "test": SPLIT}}, "two splits write"),
        ({"blok_size": 4}, "unknown key dataset.blok_size. Did you mean dataset.block_size?"),
        ({"dataset_name": "../elsewhere"}, "dataset_name"),
    ],
)
def test_a_wrong_key_is_named_with_its_rule(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    assert reason in refusal(tmp_path, {**DATASET, **changes})


def test_the_file_may_be_the_section_alone(tmp_path: Path) -> None:
    assert read_job(write(tmp_path, DATASET), {}).config.dataset_name == "toy"


def test_a_file_without_a_data_set_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no `dataset:` section"):
        read_job(write(tmp_path, {"base_model": {"name": "a/b"}}), {})


def test_a_file_that_is_not_there_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="config not found"):
        read_job(tmp_path / "none.yaml", {})


# --- models ---


@pytest.mark.parametrize("setting", [None, "auto"])
def test_models_without_a_name_are_the_base_model(tmp_path: Path, setting: str | None) -> None:
    found = job(tmp_path, {**DATASET, "tokenizer": setting, "teacher_model": setting}, base={"name": "o/base"})
    assert (found.tokenizer, found.teacher) == ("o/base", "o/base")


@pytest.mark.parametrize("key", ["tokenizer", "teacher_model"])
def test_without_a_base_model_an_auto_model_is_refused_in_the_earlier_words(tmp_path: Path, key: str) -> None:
    wanted = f"Specify dataset.{key} when base_model.name is unset."
    assert refusal(tmp_path, {**DATASET, key: "auto"}) == wanted
    assert refusal(tmp_path, {**DATASET, key: None}, base={"device": "cpu"}) == (
        wanted if key == "tokenizer" else "Specify dataset.teacher_model when base_model.name is unset."
    )


def test_a_teacher_can_be_done_without(tmp_path: Path) -> None:
    assert job(tmp_path, DATASET).teacher is None
    assert job(tmp_path, {**DATASET, "teacher_model": "off"}, base={"name": "o/base"}).teacher is None


# --- flags and environment ---


def test_flags_outrank_the_environment_and_it_outranks_the_file(tmp_path: Path) -> None:
    environ = {"MEGACONTEXT_DATASET_BLOCK_SIZE": "16", "MEGACONTEXT_DATASET_HORIZON": "128"}
    found = job(tmp_path, {**DATASET, "block_size": 8}, "dataset.horizon=32", **environ).config
    assert (found.block_size, found.horizon) == (16, 32)


def test_a_key_of_one_split_can_be_set(tmp_path: Path) -> None:
    splits = {"train": SPLIT, "test": {**SPLIT, "output_path": "../data/toy/test.arrow"}}
    sets = ("dataset.splits.train.max_tokens=100", "dataset.splits.train.max_files=3")
    train, test = job(tmp_path, {**DATASET, "splits": splits}, *sets).splits
    assert (train.limit, train.max_files) == (128, 3)
    assert (test.limit, test.max_files) == (None, None)


def test_a_path_in_a_flag_counts_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (split,) = job(tmp_path, DATASET, "dataset.splits.train.output_path=here.arrow").splits
    assert split.output == tmp_path / "here.arrow"


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("memory.budget=3", "write dataset.KEY=VALUE"),
        ("dataset.block_size", "write dataset.KEY=VALUE"),
        ("dataset.blok_size=3", "Did you mean block_size?"),
        ("dataset.splits.val.max_files=3", "there is no split val; dataset.splits has train"),
        ("dataset.splits.train.max_file=3", "Did you mean max_files?"),
    ],
)
def test_a_wrong_flag_is_named_with_the_nearest(tmp_path: Path, assignment: str, reason: str) -> None:
    assert reason in refusal(tmp_path, DATASET, assignment)


@pytest.mark.parametrize(("value", "force"), [("1", True), ("YES", True), ("0", False), ("", False)])
def test_the_environment_can_ask_for_everything_anew(tmp_path: Path, value: str, force: bool) -> None:
    assert job(tmp_path, DATASET, MEGACONTEXT_FORCE_DATA_REBUILD=value).force is force


def test_another_word_for_it_is_refused(tmp_path: Path) -> None:
    assert "set it to 1 or 0" in refusal(tmp_path, DATASET, MEGACONTEXT_FORCE_DATA_REBUILD="maybe")


# --- where outputs go ---


def test_outputs_count_from_the_configuration_and_metadata_from_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    found = job(tmp_path, DATASET)
    assert found.splits[0].output == tmp_path / "data/toy/train.arrow"
    assert found.metadata == tmp_path / "data/toy/metadata.yaml"


def test_the_data_root_replaces_the_project_root(tmp_path: Path) -> None:
    found = job(tmp_path / "repo", DATASET, MEGACONTEXT_DATA_ROOT=str(tmp_path / "big"))
    assert found.splits[0].output == tmp_path / "big/data/toy/train.arrow"
    assert found.metadata == tmp_path / "big/data/toy/metadata.yaml"


def test_an_absolute_output_stays_where_it_is(tmp_path: Path) -> None:
    splits = {"train": {**SPLIT, "output_path": str(tmp_path / "there.arrow")}}
    found = job(tmp_path / "repo", {**DATASET, "splits": splits}, MEGACONTEXT_DATA_ROOT=str(tmp_path / "big"))
    assert found.splits[0].output == tmp_path / "there.arrow"


def test_an_output_outside_the_project_has_no_place_below_a_data_root(tmp_path: Path) -> None:
    splits = {"train": {**SPLIT, "output_path": "../../train.arrow"}}
    dataset = {**DATASET, "splits": splits}
    assert "outside the project root" in refusal(tmp_path / "repo", dataset, MEGACONTEXT_DATA_ROOT=str(tmp_path))
