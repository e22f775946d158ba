"""A session folder from elsewhere: whatever its files claim to be, opening and verifying it is bounded and says so."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from megacontext.errors import MegaContextError
from megacontext.session import Session
from megacontext.tree.frame_file import FrameFile
from megacontext.tree.page_codec import PageCodec, PageShape
from megacontext.tree.page_file import geometry_of
from tools.fault_programme import forks, fuzz, toy_talk
from tools.inspection.repair import repair
from tools.inspection.verify import verify

TERABYTE = 1 << 40
WHO = {"vocab": 300, "fingerprint": "f"}

if not forks.CAN_FORK or not hasattr(os, "SEEK_DATA"):
    pytest.skip("needs a system that forks, and tells the holes of files", allow_module_level=True)


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the session `talk`, and the model that it was made with."""
    root = tmp_path_factory.mktemp("talks")
    talk = toy_talk.open_talk(toy_talk.load("llama", root / "model"), root, lambda logits: 65, max_tokens=5)
    for number in range(2):
        talk.say(f"This is sentence number {number}.")
    talk.close()
    return root


def test_a_file_that_claims_a_terabyte_takes_no_memory_and_no_time(talks: Path, tmp_path: Path) -> None:
    loaded = toy_talk.load("llama", talks / "model")
    names = sorted(path.relative_to(talks / "talk") for path in (talks / "talk").rglob("*") if path.is_file())
    assert {"tokens.log", "turns.jsonl", "session.json", "view.snap", "pages.ctx"} <= set(map(str, names))
    for name in names:
        root = tmp_path / name.name
        shutil.copytree(talks / "talk", root / "talk")
        os.truncate(root / "talk" / name, TERABYTE)

        def touch(out: int, root: Path = root) -> None:
            fuzz._limit_memory()
            started = time.process_time()
            verify(root / "talk")
            try:
                toy_talk.open_talk(loaded, root, lambda logits: 65).close()
            except MegaContextError as error:
                os.write(out, str(error).encode())
            assert time.process_time() - started < 5

        code, said = forks.finished(touch)
        assert code == 0, f"{name}: {said.decode()}"
        truth = name.name in ("tokens.log", "turns.jsonl", "session.json")
        assert truth is bool(said), f"{name}: {said.decode()}"


def test_a_log_with_more_behind_it_than_a_crash_leaves_is_refused_and_can_be_repaired(tmp_path: Path) -> None:
    with Session.open(tmp_path, "talk", **WHO) as session:
        session.append([1, 2, 3])
    os.truncate(tmp_path / "talk" / "tokens.log", 100 << 20)
    with pytest.raises(MegaContextError, match=r"bytes stand behind it.*--repair"):
        Session.open(tmp_path, "talk", **WHO)
    assert not repair(tmp_path / "talk", lambda step: None).refused
    with Session.open(tmp_path, "talk", **WHO) as session:
        assert session.tokens(0, 3) == [1, 2, 3]
    (kept,) = (tmp_path / "talk" / "quarantine").iterdir()
    assert kept.stat().st_size > 99 << 20
    assert kept.stat().st_blocks < 2000  # zeros take no room


def test_frames_of_a_file_full_of_holes_are_found_at_once(tmp_path: Path) -> None:
    codec = PageCodec(PageShape(1, 1, 2, 4), toy_talk.load("llama", tmp_path / "model").model.spec.dtype)
    file = FrameFile.open(tmp_path / "pages.ctx", geometry_of(codec), fingerprint="f")
    for number in (0, 1, 7, 500_000, 90_000_000):
        file.write(number, bytes(codec.nbytes))
    file.forget(1)
    assert list(file.numbers()) == [0, 7, 500_000, 90_000_000]
    assert list(file.numbers(8)) == [500_000, 90_000_000]
    os.truncate(tmp_path / "pages.ctx", TERABYTE)
    assert list(file.numbers(500_001)) == [90_000_000]
    file.close()
