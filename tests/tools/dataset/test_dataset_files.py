"""The files of an unfinished run: tokens, rows, state."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from megacontext.errors import ConfigError
from tools.dataset.rows import RowFile, RowWriter, columns_of
from tools.dataset.spool import TokenSpool
from tools.dataset.work import Work

# --- tokens ---


def test_finished_documents_are_there_when_the_spool_is_opened_again(tmp_path: Path) -> None:
    with TokenSpool(tmp_path) as spool:
        spool.append([1, 2, 3, 4, 5])
        spool.end_document(4)
        spool.append([6, 7])
        spool.end_document(2)
        spool.sync()
        spool.append([8, 9])  # a document that is never finished
    with TokenSpool(tmp_path) as spool:
        assert spool.lengths == [4, 2]
        spool.append([10])
        spool.end_document(1)
        spool.sync()
        assert spool.read(0, 7).tolist() == [1, 2, 3, 4, 6, 7, 10]


def test_whatever_is_torn_off_the_spool_its_documents_are_whole(tmp_path: Path) -> None:
    with TokenSpool(tmp_path) as spool:
        for length in (3, 0, 12, 5):
            spool.append(range(length))
            spool.end_document(length)
        spool.sync()
    tokens, journal = (tmp_path / "tokens.bin").read_bytes(), (tmp_path / "documents.txt").read_bytes()
    for keep in range(len(tokens) + 1):
        (tmp_path / "tokens.bin").write_bytes(tokens[:keep])
        (tmp_path / "documents.txt").write_bytes(journal)
        with TokenSpool(tmp_path) as spool:
            assert spool.lengths == [3, 0, 12, 5][: len(spool.lengths)]
            assert spool.tokens * 4 <= keep
    for keep in range(len(journal) + 1):
        (tmp_path / "tokens.bin").write_bytes(tokens)
        (tmp_path / "documents.txt").write_bytes(journal[:keep])
        with TokenSpool(tmp_path) as spool:
            assert spool.lengths == [3, 0, 12, 5][: journal[:keep].count(b"\n")]


# --- rows ---


@pytest.mark.parametrize(("hidden", "numpy"), [("float32", np.float32), ("float16", np.float16)])
def test_rows_are_a_safetensors_file(tmp_path: Path, hidden: str, numpy: type) -> None:
    columns = columns_of(6, 2, 3, hidden)
    file = RowFile(tmp_path / "rows.safetensors", columns, 5, {"made": "by hand"})
    rng = np.random.default_rng(0)
    values = {column.name: rng.integers(0, 100, (5, *column.shape)) for column in columns}
    file.create()
    with RowWriter(file) as writer:
        for first, stop in ((3, 5), (0, 3)):
            writer.write(first, {name: rows[first:stop] for name, rows in values.items()})
    loaded = load_file(tmp_path / "rows.safetensors")
    assert loaded.keys() == values.keys()
    for name, rows in values.items():
        np.testing.assert_array_equal(loaded[name], rows)
    assert loaded["context_input_ids"].dtype == np.int64
    assert loaded["future_attention_mask"].dtype == np.int8
    assert loaded["teacher_context_hidden"].dtype == numpy
    np.testing.assert_array_equal(file.read(columns[0], 1, 3), values[columns[0].name][1:3])


def test_every_tensor_can_be_mapped_from_disk(tmp_path: Path) -> None:
    columns = columns_of(5, 3, 3, "bfloat16")
    file = RowFile(tmp_path / "rows.safetensors", columns, 7, {"odd": "x" * 13})
    for column in columns:
        assert file.place(column, 0) % {"I64": 8, "BF16": 2, "I8": 1}[column.dtype] == 0


def test_a_file_begun_for_other_rows_is_not_taken_up(tmp_path: Path) -> None:
    path, columns = tmp_path / "rows.safetensors", columns_of(4, 4)
    RowFile(path, columns, 5, {}).create()
    assert RowFile(path, columns, 5, {}).exists()
    assert not RowFile(path, columns, 6, {}).exists()
    assert not RowFile(path, columns, 5, {"fingerprint": "another"}).exists()
    assert not RowFile(path, columns_of(4, 4, 2), 5, {}).exists()


# --- state ---


def test_work_goes_on_for_the_same_texts_and_settings(tmp_path: Path) -> None:
    work = Work(tmp_path / "out.arrow", "one")
    work.rows = 12
    work.save()
    again = Work(tmp_path / "out.arrow", "one")
    assert (again.found, again.rows) == ("unfinished", 12)
    other = Work(tmp_path / "out.arrow", "two")
    assert (other.found, other.rows) == ("other", 0)
    assert Work(tmp_path / "out.arrow", "two", anew=True).found == "other"
    other.remove()
    assert Work(tmp_path / "out.arrow", "two").found == "nothing"


def test_a_folder_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "out.arrow.part"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no work folder of this tool"):
        Work(tmp_path / "out.arrow", "one")
    (folder / "state.json").write_text(json.dumps(["not", "a", "state"]))
    with pytest.raises(ConfigError, match="no work folder of this tool"):
        Work(tmp_path / "out.arrow", "one", anew=True)
    assert (folder / "thesis.txt").read_text() == "mine"


def test_a_state_that_was_never_finished_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "out.arrow.part"
    folder.mkdir()
    (folder / ".state.json.7.tmp").write_text("{")
    assert Work(tmp_path / "out.arrow", "one").found == "nothing"
