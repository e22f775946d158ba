"""Whatever interrupts a run, the next one goes on, and the file is byte for byte that of a run without interruption."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dataset_toys import MODEL, metadata, project

from tools.dataset import split_run
from tools.dataset.metadata import Metadata
from tools.dataset.models import Teacher
from tools.dataset.rows import RowFile, RowWriter
from tools.dataset.spool import TokenSpool
from tools.dataset.work import Work
from tools.prepare_dataset import main

ROOT = Path(__file__).resolve().parents[3]
TEXTS = {f"{i}.txt": f"Document {i} says " + "something " * i for i in range(1, 7)}
SITES = (
    (TokenSpool, "end_document"),
    (TokenSpool, "sync"),
    (Work, "save"),
    (Work, "publish"),
    (Work, "remove"),
    (RowFile, "create"),
    (RowWriter, "write"),
    (RowWriter, "sync"),
    (Metadata, "write"),
    (split_run, "_sha256"),
)


class Crash(BaseException):
    """What no code can catch by accident."""


class Saboteur:
    """Breaks off at the k-th passage through any of SITES: odd ones before the work is done, even ones after it."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.passed, self.at = 0, at
        for owner, name in SITES:
            patch.setattr(owner, name, self._around(getattr(owner, name)))

    def _around(self, work: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **kwargs: object) -> object:
            self._pass()
            result = work(*args, **kwargs)
            self._pass()
            return result

        return wrapped

    def _pass(self) -> None:
        self.passed += 1
        if self.passed == self.at:
            raise Crash


def result(root: Path, suffix: str) -> tuple[bytes, dict[str, object]]:
    folder = root / "data/toy"
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "metadata.yaml", f"train{suffix}"]
    return (folder / f"train{suffix}").read_bytes(), metadata(root)


def broken_off(config: Path, at: int) -> bool:
    """False if the run was over before its `at`-th passage."""
    with pytest.MonkeyPatch.context() as patch:
        Saboteur(patch, at)
        try:
            main(["--config", str(config)])
        except Crash:
            return True
    return False


@pytest.mark.parametrize("suffix", [".arrow", ".safetensors"])
def test_a_run_broken_off_anywhere_is_finished_by_the_next(tmp_path: Path, suffix: str) -> None:
    config = project(tmp_path, TEXTS, suffix=suffix, teacher_model=MODEL, teacher_batch_size=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tools.dataset.work.SYNC_SECONDS", 0.0)
        assert main(["--config", str(config)]) == 0
        whole = result(tmp_path, suffix)
        broken = 0
        shutil.rmtree(tmp_path / "data")
        while broken_off(config, broken + 1):
            broken += 1
            assert main(["--config", str(config)]) == 0
            assert result(tmp_path, suffix) == whole
            shutil.rmtree(tmp_path / "data")
    assert broken > 50


def test_finished_documents_and_batches_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = project(tmp_path, TEXTS, teacher_model=MODEL, teacher_batch_size=4)
    monkeypatch.setattr("tools.dataset.work.SYNC_SECONDS", 0.0)
    batches, texts = list[int](), list[int]()
    hidden, end = Teacher.hidden, TokenSpool.end_document

    def counted_hidden(self: Teacher, ids: object) -> object:
        batches.append(1)
        if len(batches) == 3:
            raise Crash
        return hidden(self, ids)  # type: ignore[arg-type]

    def counted_end(self: TokenSpool, tokens: int) -> None:
        texts.append(1)
        if len(texts) == 4:
            raise Crash
        end(self, tokens)

    monkeypatch.setattr(Teacher, "hidden", counted_hidden)
    monkeypatch.setattr(TokenSpool, "end_document", counted_end)
    for _ in range(2):
        with pytest.raises(Crash):
            main(["--config", str(config)])
    assert main(["--config", str(config)]) == 0
    examples = metadata(tmp_path)["splits"]["train"]["examples"]
    assert len(texts) == len(TEXTS) + 1
    assert len(batches) == -(-examples // 4) + 1


def test_an_interrupted_run_of_other_settings_is_begun_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = project(tmp_path, TEXTS)
    assert broken_off(config, 20)
    assert main(["--config", str(config), "--set", "dataset.block_size=2"]) == 0
    assert "an unfinished run is begun anew: texts or settings have changed" in capsys.readouterr().err


def test_numbers_of_another_device_are_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def elsewhere(self: Teacher, *args: object) -> None:
        made(self, *args)  # type: ignore[arg-type]
        self.device = "cuda"

    config = project(tmp_path, TEXTS, teacher_model=MODEL, teacher_batch_size=4)
    monkeypatch.setattr("tools.dataset.work.SYNC_SECONDS", 0.0)
    assert broken_off(config, 50)
    made = Teacher.__init__
    monkeypatch.setattr(Teacher, "__init__", elsewhere)
    assert main(["--config", str(config)]) == 0
    assert "device or number format is another than before" in capsys.readouterr().err


def test_ctrl_c_is_130_and_the_way_on_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    config = project(tmp_path, TEXTS)
    with monkeypatch.context() as patch:
        patch.setattr(RowWriter, "write", press)
        assert main(["--config", str(config)]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert main(["--config", str(config)]) == 0
    assert "resumed" in capsys.readouterr().out


SLOW_RUN = """
import sys, time
import tools.dataset.work, tools.dataset.models as models
from tools.prepare_dataset import main
tools.dataset.work.SYNC_SECONDS = 0.0
hidden = models.Teacher.hidden
def slowly(self, ids):
    time.sleep(0.02)
    return hidden(self, ids)
models.Teacher.hidden = slowly
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_kill_9_at_random_moments_changes_nothing(tmp_path: Path) -> None:
    rng = random.Random(0)
    config = project(tmp_path, TEXTS, suffix=".arrow", teacher_model=MODEL, teacher_batch_size=1)
    assert main(["--config", str(config)]) == 0
    whole = result(tmp_path, ".arrow")
    shutil.rmtree(tmp_path / "data")
    state = tmp_path / "data/toy/train.arrow.part/state.json"
    kills = 0
    while True:
        run = subprocess.Popen([sys.executable, "-c", SLOW_RUN, "--config", str(config)], cwd=ROOT)
        until, began = time.monotonic() + 60, None
        while run.poll() is None and time.monotonic() < until:
            began = began or (time.monotonic() + rng.random() * 0.4 if state.exists() else None)
            if kills < 6 and began and time.monotonic() > began:
                run.send_signal(signal.SIGKILL)
            time.sleep(0.002)
        if run.wait(10) == 0:
            break
        assert run.returncode == -signal.SIGKILL
        kills += 1
    assert kills >= 2
    assert result(tmp_path, ".arrow") == whole
