"""The command as a user has it: texts and a configuration in, a file of examples out, read back by other libraries."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.ipc
import pytest
import torch
import yaml
from dataset_toys import MODEL, SIZES, byte_ids, edit, expected, metadata, output_json, project, write
from safetensors import safe_open
from safetensors.torch import load_file

from nanochat.files import FileLock
from tools.bootstrap import seeded_gpt2
from tools.dataset.models import Teacher
from tools.prepare_dataset import main

ROOT = Path(__file__).resolve().parents[3]
TEXTS = {
    "a.txt": "One morning, the café opened late.\n" * 3,
    "b/short.txt": "too short",
    "b/c.txt": "日本語 and then some more words, so that there is a second window.",
    "d.txt": "",
}
LEGACY_COLUMNS = {
    "context_input_ids": "list<item: int64>",
    "context_attention_mask": "list<item: int8>",
    "future_input_ids": "list<item: int64>",
    "future_attention_mask": "list<item: int8>",
    "teacher_context_hidden": "list<item: list<item: float>>",
    "teacher_future_hidden": "list<item: list<item: float>>",
}

Capture = pytest.CaptureFixture[str]


def run(config: Path, *flags: str) -> int:
    return main(["--config", str(config), *flags])


def table(root: Path) -> pyarrow.Table:
    with pyarrow.ipc.open_file(root / "data/toy/train.arrow") as reader:
        return reader.read_all()


def tensors(root: Path) -> dict[str, torch.Tensor]:
    return load_file(root / "data/toy/train.safetensors")


def wanted(texts: dict[str, str] = TEXTS, **sizes: int) -> list[tuple[list[int], list[int]]]:
    ids = byte_ids()
    documents = [[ids[byte] for byte in texts[name].encode()] for name in sorted(texts)]
    return expected(documents, **{**SIZES, **sizes})


# --- examples ---


@pytest.mark.parametrize("sizes", [{}, {"max_tokens": 50}, {"max_tokens": 98}, {"context_stride": 4}, {"horizon": 4}])
def test_the_examples_are_those_of_the_rules_in_both_formats(tmp_path: Path, sizes: dict[str, int]) -> None:
    split = {key: sizes[key] for key in ("max_tokens",) if key in sizes}
    keys = {key: value for key, value in sizes.items() if key not in split}
    for suffix in (".arrow", ".safetensors"):
        assert run(project(tmp_path, TEXTS, suffix=suffix, split=split, **keys)) == 0
    examples = wanted(**sizes)
    assert examples
    columns = table(tmp_path).to_pydict()
    assert list(zip(columns["context_input_ids"], columns["future_input_ids"], strict=True)) == examples
    assert tensors(tmp_path)["context_input_ids"].tolist() == [context for context, _ in examples]
    assert tensors(tmp_path)["future_input_ids"].tolist() == [future for _, future in examples]


def test_one_split_gives_one_example_with_its_hidden_states(tmp_path: Path) -> None:
    sizes = {"block_size": 4, "context_tokens": 4, "context_stride": 4, "horizon": 4, "teacher_batch_size": 2}
    assert run(project(tmp_path, {"a.txt": "abcdefgh"}, suffix=".arrow", teacher_model=MODEL, **sizes)) == 0
    entry = metadata(tmp_path)["splits"]["train"]
    assert (entry["examples"], entry["contexts"], entry["teacher_hidden_size"]) == (1, 1, 2)
    assert entry["teacher_dtype"] == "float32"
    rows = table(tmp_path).to_pydict()
    assert len(rows["context_input_ids"]) == 1
    assert np.shape(rows["teacher_context_hidden"]) == np.shape(rows["teacher_future_hidden"]) == (1, 4, 2)
    assert rows["context_attention_mask"] == rows["future_attention_mask"] == [[1, 1, 1, 1]]


@pytest.mark.parametrize("teacher", [None, MODEL])
def test_arrow_has_the_earlier_columns_and_types(tmp_path: Path, teacher: str | None) -> None:
    assert run(project(tmp_path, TEXTS, suffix=".arrow", teacher_model=teacher)) == 0
    assert {field.name: str(field.type) for field in table(tmp_path).schema} == LEGACY_COLUMNS
    rows = table(tmp_path).column("teacher_context_hidden").to_pylist()
    assert all(len(row) == (16 if teacher else 0) for row in rows)


def test_several_record_batches_hold_what_one_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = project(tmp_path, TEXTS, suffix=".arrow", teacher_model=MODEL)
    assert run(config) == 0
    whole = table(tmp_path)
    monkeypatch.setattr("tools.dataset.arrow.BATCH_ROWS", 3)
    assert run(config, "--force") == 0
    assert table(tmp_path).equals(whole)
    assert table(tmp_path).column(0).num_chunks > 1


def test_a_file_says_of_itself_what_made_it(tmp_path: Path) -> None:
    for suffix in (".arrow", ".safetensors"):
        assert run(project(tmp_path, TEXTS, suffix=suffix)) == 0
        said = said_by(tmp_path / f"data/toy/train{suffix}")
        assert said["fingerprint"] == metadata(tmp_path)["splits"]["train"]["fingerprint"]
        assert (said["dataset_name"], said["split"], said["block_size"]) == ("toy", "train", "4")


def said_by(file: Path) -> dict[str, str]:
    if file.suffix == ".safetensors":
        with safe_open(file, "np") as reader:
            return reader.metadata()
    with pyarrow.ipc.open_file(file) as reader:
        return {key.decode(): value.decode() for key, value in reader.schema.metadata.items()}


# --- the teacher ---


def toy_teacher(root: Path) -> Path:
    """A GPT-2 with a width worth the name, by transformers, beside the toy's tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=257)
    folder = root / "artifacts/models/wide"
    GPT2LMHeadModel(sizes).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(seeded_gpt2.tokenizer()))
    return folder


def test_hidden_states_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import GPT2LMHeadModel

    folder = toy_teacher(tmp_path)
    config = project(tmp_path, TEXTS, teacher_model="artifacts/models/wide", teacher_batch_size=3)
    assert run(config) == 0
    found = tensors(tmp_path)
    ids = torch.cat([found["context_input_ids"], found["future_input_ids"]], 1)
    with torch.no_grad():
        model = GPT2LMHeadModel.from_pretrained(folder).eval()
        theirs = model(ids, output_hidden_states=True).hidden_states[-1]
    ours = torch.cat([found["teacher_context_hidden"], found["teacher_future_hidden"]], 1)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_bfloat16_is_kept_where_the_format_has_it_and_said_where_not(tmp_path: Path, capsys: Capture) -> None:
    toy_teacher(tmp_path)
    keys = {"teacher_model": "artifacts/models/wide", "teacher_dtype": "bfloat16"}
    assert run(project(tmp_path, TEXTS, **keys)) == 0
    assert metadata(tmp_path)["teacher_dtype"] == "bfloat16"
    assert "float32" not in capsys.readouterr().err
    kept = tensors(tmp_path)["teacher_future_hidden"]
    assert kept.dtype == torch.bfloat16
    assert run(project(tmp_path, TEXTS, suffix=".arrow", **keys)) == 0
    assert metadata(tmp_path)["teacher_dtype"] == "float32"
    assert "Arrow has no bfloat16: hidden states are written as float32" in capsys.readouterr().err
    widened = torch.tensor(table(tmp_path).column("teacher_future_hidden").to_pylist())
    assert torch.equal(widened, kept.float())


def test_a_made_up_teacher_is_told_on_every_run(tmp_path: Path, capsys: Capture) -> None:
    config = project(tmp_path, TEXTS, teacher_model=MODEL)
    for _ in range(2):
        assert run(config) == 0
        assert "WARNING: artifacts/models/toy: a made-up model" in capsys.readouterr().err
    assert metadata(tmp_path)["teacher_seeded"] is True


@pytest.mark.parametrize("kind", ["tokenizer.json", "vocab.json and merges.txt"])
def test_a_tokenizer_needs_no_weights_beside_it(tmp_path: Path, kind: str) -> None:
    config = project(tmp_path, TEXTS, tokenizer="artifacts/models/alone")
    folder = tmp_path / "artifacts/models/alone"
    folder.mkdir()
    if kind == "tokenizer.json":
        (folder / kind).write_text(json.dumps(seeded_gpt2.tokenizer()))
    else:
        (folder / "vocab.json").write_text(json.dumps(seeded_gpt2.tokenizer()["model"]["vocab"]))  # type: ignore[index]
        (folder / "merges.txt").write_text("#version: 0.2\n")
    assert run(config) == 0
    assert tensors(tmp_path)["context_input_ids"].tolist() == [context for context, _ in wanted()]


# --- what is there is not made again ---


def test_nothing_is_done_twice(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    config = project(tmp_path, TEXTS, teacher_model=MODEL)
    assert run(config) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(Teacher, "__init__", None)  # it would not even be loaded
    assert run(config) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{first.splitlines()[0]}, unchanged"


@pytest.mark.parametrize("change", ["text", "order", "block", "limit", "teacher", "lost"])
def test_what_changed_is_made_anew_and_said(tmp_path: Path, capsys: Capture, change: str) -> None:
    config = project(tmp_path, TEXTS)
    assert run(config) == 0
    before = metadata(tmp_path)["splits"]["train"]
    texts = tmp_path / "texts"
    if change == "text":
        (texts / "a.txt").write_text("A new text that is long enough for an example.")
    elif change == "order":
        (texts / "a.txt").rename(texts / "z.txt")
    elif change == "lost":
        (tmp_path / "data/toy/metadata.yaml").unlink()
    else:
        edit(config, **{"block": {"block_size": 2}, "teacher": {"teacher_model": MODEL}}.get(change, {}))
    flags = ["--set", "dataset.splits.train.max_tokens=40"] if change == "limit" else []
    assert run(config, "--json", *flags) == 0
    out, err = capsys.readouterr()
    assert output_json(out.splitlines()[-1])["state"] == "rebuilt"
    assert "is made anew: metadata.yaml does not say" in err if change == "lost" else "have changed" in err
    assert (metadata(tmp_path)["splits"]["train"]["fingerprint"] != before["fingerprint"]) == (change != "lost")


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_everything_can_be_made_anew(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    config = project(tmp_path, TEXTS)
    assert run(config) == 0
    before = metadata(tmp_path)
    if how == "environment":
        monkeypatch.setenv("MEGACONTEXT_FORCE_DATA_REBUILD", "1")
    assert run(config, *(["--force"] if how == "flag" else [])) == 0
    out, err = capsys.readouterr()
    assert "rebuilt" in out
    assert "as asked" in err
    assert metadata(tmp_path) == before


def test_one_split_can_be_made_alone_and_the_other_stays_listed(tmp_path: Path, capsys: Capture) -> None:
    splits = {
        name: {"source": f"../texts/{name}.txt", "output_path": f"../data/toy/{name}.safetensors"} for name in "ad"
    }
    config = project(tmp_path, {**TEXTS, "d.txt": "x" * 99}, splits=splits)
    assert run(config, "--split", "a") == 0
    assert list(metadata(tmp_path)["splits"]) == ["a"]
    assert run(config, "--split", "d") == 0
    assert list(metadata(tmp_path)["splits"]) == ["a", "d"]
    edit(config, block_size=2)
    assert run(config, "--split", "d") == 0
    assert "[a] was made with other settings" in capsys.readouterr().err
    assert list(metadata(tmp_path)["splits"]) == ["d"]
    assert run(config, "--split", "b") == 2
    assert "--split b: there is no such split; dataset.splits has a, d" in capsys.readouterr().err


# --- what is said ---


def test_summary_lines_are_the_earlier_ones(tmp_path: Path, capsys: Capture) -> None:
    assert run(project(tmp_path, TEXTS, teacher_model=MODEL)) == 0
    count = len(wanted())
    assert capsys.readouterr().out.splitlines() == [
        f"[train] 4 docs, {count} contexts → {count} examples (teacher dim=2 dtype=float32)",
        f"Wrote metadata to {tmp_path / 'data/toy/metadata.yaml'}",
    ]


def test_metadata_has_the_earlier_keys_first_and_true_hashes(tmp_path: Path) -> None:
    import hashlib

    assert run(project(tmp_path, TEXTS)) == 0
    found = metadata(tmp_path)
    assert list(found)[:10] == [
        *("dataset_name", "tokenizer", "block_size", "context_tokens", "context_stride", "horizon"),
        *("teacher_model", "teacher_dtype", "teacher_dtype_config", "splits"),
    ]
    entry = found["splits"]["train"]
    output = tmp_path / "data/toy" / entry["output_path"]
    assert entry["output_sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert entry["output_bytes"] == output.stat().st_size
    assert (entry["source_files"], entry["source_bytes"]) == (4, sum(len(text.encode()) for text in TEXTS.values()))
    assert (entry["teacher_hidden_size"], entry["teacher_dtype"]) == (0, None)


def test_json_is_one_object_and_a_pipe_gets_no_progress(tmp_path: Path) -> None:
    config = project(tmp_path, TEXTS)
    command = [sys.executable, "-m", "tools.prepare_dataset", "--config", str(config), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        0,
        "WARNING: artifacts/models/toy: a made-up model, random weights and a tokenizer of bytes\n",
    )
    found = json.loads(done.stdout)
    assert found["metadata_path"] == str(tmp_path / "data/toy/metadata.yaml")
    assert found["splits"]["train"]["state"] == "built"


def test_help_comes_without_heavy_imports() -> None:
    program = (
        "import sys, tools.prepare_dataset as t\n"
        "code = t.main(['--help'])\n"
        "heavy = {'torch', 'pydantic', 'rich', 'numpy', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(code or len(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout


PEAK = """
import resource, sys
from tools.dataset import documents
from tools.prepare_dataset import main
documents.CHUNK = documents.PIECE = 1 << 16
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss in kilobytes")
def test_a_long_text_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    peaks = []
    for copies in (1, 12):
        config = project(tmp_path, {"a.txt": "A line of text, and one more.\n" * 32768 * copies}, context_stride=64)
        command = [sys.executable, "-c", PEAK, "--config", str(config)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]) >> 10)
    assert peaks[1] < peaks[0] + 24, f"peaks of {peaks} MB for 1 and 12 MB of text, 4 and 48 MB of ids"


# --- the earlier configuration ---


def test_the_earlier_sample_configuration_works_as_it_is(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "configs").mkdir()
    config = Path(shutil.copy(ROOT / "configs/SampleText_TinyGPT2.yaml", tmp_path / "configs"))
    section = yaml.safe_load(config.read_text())["dataset"]
    source = tmp_path / "configs" / section["splits"]["train"]["source"]
    text = "A sample of some text, with enough words in it for several windows.\n" * 40
    for folder in (tmp_path / "artifacts/models/tiny-gpt2-seeded", source.resolve().parent):
        folder.mkdir(parents=True)
    seeded_gpt2.write(tmp_path / "artifacts/models/tiny-gpt2-seeded")
    source.write_text(text)
    assert run(config) == 0
    out, err = capsys.readouterr()
    assert "WARNING: gpt2 and sshleifer/tiny-gpt2: a made-up model" in err
    with pyarrow.ipc.open_file(tmp_path / "data/sample_text/train.arrow") as reader:
        rows = reader.read_all().to_pydict()
    sizes = {key: section[key] for key in SIZES}
    ids = byte_ids()
    limit = section["splits"]["train"].get("max_tokens")
    examples = expected([[ids[byte] for byte in text.encode()]], **sizes, max_tokens=limit)
    assert list(zip(rows["context_input_ids"], rows["future_input_ids"], strict=True)) == examples
    assert f"[train] 1 docs, {len(examples)} contexts → {len(examples)} examples (teacher dim=2 dtype=float32)" in out


# --- what is refused ---


def test_a_split_without_an_example_is_refused_and_leaves_nothing(tmp_path: Path, capsys: Capture) -> None:
    assert run(project(tmp_path, {"a.txt": "too short", "b.txt": "too short, too"})) == 2
    assert (
        "no document is long enough for one example: context_tokens + horizon is 24, the longest of 2 documents "
        in (capsys.readouterr().err)
    )
    assert [path.name for path in (tmp_path / "data/toy").iterdir()] == [".lock"]


def test_no_texts_are_missing_assets(tmp_path: Path, capsys: Capture) -> None:
    assert run(project(tmp_path, {})) == 3
    assert "no files match" in capsys.readouterr().err


def test_a_text_that_is_not_utf8_is_named(tmp_path: Path, capsys: Capture) -> None:
    config = project(tmp_path, TEXTS)
    (tmp_path / "texts/b/e.txt").write_bytes(b"\xff\xfea\0b\0")
    assert run(config) == 2
    assert "e.txt: not UTF-8 text (byte 0)" in capsys.readouterr().err


def test_a_missing_model_says_how_to_get_it(tmp_path: Path, capsys: Capture) -> None:
    assert run(project(tmp_path, TEXTS, teacher_model="someone/something")) == 3
    assert "bootstrap_env.py --hub someone/something" in capsys.readouterr().err


def test_without_pyarrow_the_extra_is_named_before_any_work(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    config = project(tmp_path, TEXTS, suffix=".arrow")
    assert run(config) == 3
    assert "megacontext[data]" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    assert run(project(tmp_path, TEXTS, suffix=".safetensors")) == 0


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, capsys: Capture) -> None:
    split = {"output_path": "../texts/a.txt/train.arrow"}
    assert run(project(tmp_path, TEXTS, split=split)) == 2
    err = capsys.readouterr().err
    assert "cannot be written" in err
    assert "change output_path" in err


def test_an_output_that_is_a_folder_is_told_before_any_work(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "data/toy/train.safetensors").mkdir(parents=True)
    assert run(project(tmp_path, TEXTS)) == 2
    assert "train.safetensors: cannot be written (it is a folder)" in capsys.readouterr().err


def test_a_disk_too_small_is_told_before_the_teacher_starts(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))  # type: ignore[attr-defined]
    assert run(project(tmp_path, TEXTS)) == 2
    assert "examples need" in capsys.readouterr().err


def test_a_failing_disk_keeps_what_is_done(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "rows.safetensors")

    config = project(tmp_path, TEXTS)
    with monkeypatch.context() as patch:
        patch.setattr("tools.dataset.rows.RowWriter.write", full)
        assert run(config) == 4
    assert "writing failed (No space left on device)" in capsys.readouterr().err
    assert run(config) == 0
    assert "goes on: 4 documents read" in capsys.readouterr().err


def test_two_processes_do_not_make_one_data_set(tmp_path: Path, capsys: Capture) -> None:
    config = project(tmp_path, TEXTS)
    (tmp_path / "data/toy").mkdir(parents=True)
    lock = FileLock(tmp_path / "data/toy/.lock")
    assert lock.acquire()
    assert run(config) == 4
    assert f"process {lock.owner()} is preparing" in capsys.readouterr().err
    lock.release()
    assert run(config) == 0


def test_an_example_longer_than_the_teacher_knows_is_refused(tmp_path: Path, capsys: Capture) -> None:
    assert run(project(tmp_path, TEXTS, teacher_model=MODEL, context_tokens=1024)) == 2
    assert "dataset.context_tokens + horizon is 1032, but the teacher" in capsys.readouterr().err


def test_a_tokenizer_that_the_teacher_does_not_share_is_refused(tmp_path: Path, capsys: Capture) -> None:
    config = project(tmp_path, TEXTS, teacher_model=MODEL, tokenizer="artifacts/models/larger")
    larger = tmp_path / "artifacts/models/larger"
    larger.mkdir()
    tokenizer = seeded_gpt2.tokenizer()
    vocab = tokenizer["model"]["vocab"]  # type: ignore[index]
    tokenizer["model"]["vocab"] = {letter: i + 1000 for letter, i in vocab.items()}  # type: ignore[index]
    tokenizer["added_tokens"] = []
    (larger / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert run(config) == 2
    assert "set dataset.tokenizer to the teacher's own" in capsys.readouterr().err


def test_a_special_in_a_text_is_ordinary_text(tmp_path: Path) -> None:
    assert run(project(tmp_path, {"a.txt": "<|endoftext|>" * 3}, context_tokens=12, horizon=12)) == 0
    ids = byte_ids()
    assert tensors(tmp_path)["context_input_ids"].tolist()[0] == [ids[byte] for byte in b"<|endoftext|"]


def test_a_damaged_metadata_is_told(tmp_path: Path, capsys: Capture) -> None:
    config = project(tmp_path, TEXTS)
    assert run(config) == 0
    (tmp_path / "data/toy/metadata.yaml").write_text("splits: [\n")
    assert run(config) == 0
    assert "every split is made anew" in capsys.readouterr().err


def test_a_section_alone_is_a_configuration_too(tmp_path: Path) -> None:
    values = yaml.safe_load(project(tmp_path, TEXTS).read_text())["dataset"]
    assert run(write(tmp_path, values, "alone")) == 0
    assert tensors(tmp_path)["context_input_ids"].tolist() == [context for context, _ in wanted()]
