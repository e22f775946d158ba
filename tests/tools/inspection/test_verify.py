"""Sessions of a real chat with a tiny model, damaged file by file: what --verify says, what --repair makes of it."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megacontext.focus.lexical_store import LexicalStore
from megacontext.sessions.stored import read_session
from megacontext.tree import token_frames as frames
from nanochat.chat.__main__ import main as chat
from tools.bootstrap.seeded_gpt2 import write as write_model
from tools.inspect_memory import main
from tools.inspection.repair import repair
from tools.inspection.verify import verify

ROOT = Path(__file__).resolve().parents[3]
TEXT = "The owl sleeps in the barn.\nNobody wakes it. "
CONFIG = """\
model: {{path: {home}/models/tiny}}
memory: {{budget: 256, block: 8, recent_tokens: 64, prompt_recent_tokens: 64, read_chunk: 16}}
chat: {{max_tokens: 24, temperature: 1.0}}
telemetry: {{log_dir: {home}/logs}}
session: {{root: {root}, name: diary}}
"""
UNIT = 512


def tokens_of(folder: Path) -> list[int]:
    return read_session(folder).tokens.tolist()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a session of one document and two questions."""
    home = tmp_path_factory.mktemp("home")
    write_model(home / "models" / "tiny")
    (home / "owl.txt").write_text(TEXT * 30, encoding="utf-8")
    (home / "tiny.yaml").write_text(CONFIG.format(home=home.as_posix(), root=(home / "sessions").as_posix()))
    questions = ["-p", "Who sleeps?", "-p", "Where is the barn?"]
    assert chat(["--config", str(home / "tiny.yaml"), "--read", str(home / "owl.txt"), *questions]) == 0
    folder = home / "sessions" / "diary"
    ids = tokens_of(folder)
    lexical = folder / "lexical"
    shutil.rmtree(lexical, ignore_errors=True)
    LexicalStore.open(lexical, len(ids), lambda a, b: ids[a:b], "any", block=8, window=16, unit=UNIT).close()
    return home


@pytest.fixture
def folder(home: Path, tmp_path: Path) -> Path:
    """The session, to be damaged; `tiny.yaml` beside it opens it."""
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(home=home.as_posix(), root=(tmp_path / "sessions").as_posix()))
    shutil.copytree(home / "sessions", tmp_path / "sessions")
    return tmp_path / "sessions" / "diary"


def say(folder: Path) -> int:
    """The chat's exit code for one more question."""
    return chat(["--config", str(folder.parents[1] / "tiny.yaml"), "-p", "And now?"])


def states(folder: Path) -> dict[str, str]:
    return {file.name: file.told for file in verify(folder).files}


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def frames_in(data: bytes, start: int = frames.HEADER_BYTES) -> list[frames.Frame]:
    return list(frames.read_frames(lambda offset, size: data[offset : offset + size], start))


def quarantined_tokens(folder: Path) -> list[int]:
    """Tokens in whole frames of what was cut out of the log, in their order."""
    found: list[int] = []
    for path in sorted((folder / "quarantine").glob("tokens.log.*")):
        data = path.read_bytes()
        for place in range(0, len(data), 4):
            frame = frames.unpack_frame(data, place, place)
            if frame is not None and frame.type == frames.TOKENS:
                found += frame.tokens.tolist()
    return found


def test_a_whole_session_is_ok_file_by_file_and_nothing_is_changed(folder, capsys):
    before = fingerprint(folder)
    assert main([str(folder), "--verify"]) == 0
    assert fingerprint(folder) == before
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    names = [line.split()[0] for line in lines[:-1]]
    assert names[:3] == ["session.json", "tokens.log", "turns.jsonl"]
    assert {"means.ctx", "pages.ctx", "view.snap"} < set(names)
    assert any(name.startswith("lexical/") for name in names)
    assert all(" ok " in line for line in lines[:-1])
    assert lines[-1] == f"whole: {len(tokens_of(folder)):,} tokens"


def test_it_can_be_read_by_programs(folder, capsys):
    assert main([str(folder), "--verify", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["session"], found["exit_code"], found["repaired"]) == ("diary", 0, [])
    assert found["tokens"] == len(tokens_of(folder))
    assert all(file["state"] == "ok" and not file["refused"] for file in found["files"])
    assert {file["name"]: file["bytes"] for file in found["files"]}["view.snap"] > 0
    assert main([str(folder), "--json"]) == 2


def test_a_session_that_is_open_elsewhere_can_be_verified_and_not_repaired(folder, capsys):
    program = (
        "import json, sys; from pathlib import Path; from megacontext.session import Session\n"
        "folder = Path(sys.argv[1]); known = json.loads((folder / 'session.json').read_text())\n"
        "with Session.open(folder.parent, folder.name, vocab=known['vocab'], fingerprint=known['fingerprint']):\n"
        "    print('open', flush=True); sys.stdin.read()\n"
    )
    held = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert held.stdout is not None
        assert held.stdout.readline() == b"open\n"
        before = fingerprint(folder)
        assert main([str(folder), "--verify"]) == 0
        assert main([str(folder), "--repair"]) == 4
        assert f"is open in process {held.pid}" in capsys.readouterr().err
        assert fingerprint(folder) == before
    finally:
        held.communicate()


# What cannot be made again --------------------------------------------------------------------------------------------


def test_damage_before_the_tail_is_exit_4_with_the_command_that_mends_it(folder):
    """All of it in processes of their own: the chat says what to run, that is run, and the chat goes on."""
    path, ids = folder / "tokens.log", tokens_of(folder)
    bad = frames_in(path.read_bytes())[2]
    flip(path, bad.offset + 30)
    before = fingerprint(folder)
    command = [sys.executable, "-m", "nanochat.chat", "--config", str(folder.parents[1] / "tiny.yaml"), "-p", "Now?"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 4
    assert f"tokens.log is damaged at byte {bad.offset}, after " in refused.stderr
    assert fingerprint(folder) == before
    told = shlex.split(refused.stderr[refused.stderr.index("python -m tools.inspect_memory") :].splitlines()[0])
    verified = subprocess.run(
        [sys.executable, *told[1:-1], "--verify"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert verified.returncode == 4
    assert f"damaged at byte {bad.offset:,}" in verified.stdout
    assert verified.stdout.splitlines()[-1].startswith("damaged: ")
    repaired = subprocess.run([sys.executable, *told[1:]], cwd=ROOT, capture_output=True, text=True)
    assert repaired.returncode == 0, repaired.stderr
    assert f"tokens.log: cut at byte {bad.offset:,}" in repaired.stderr
    kept = tokens_of(folder)
    assert kept == ids[: len(kept)]
    assert kept + quarantined_tokens(folder) == ids[: len(kept)] + ids[len(kept) + len(bad.tokens) :]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert tokens_of(folder)[: len(kept)] == kept


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_no_readable_token_is_lost_wherever_a_log_is_cut_or_changed(folder, share):
    path, ids = folder / "tokens.log", tokens_of(folder)
    whole = path.read_bytes()
    at = int(len(whole) * share)
    (hit,) = [frame for frame in frames_in(whole) if frame.offset <= at < frame.end]
    readable = [t for f in frames_in(whole) if f.type == frames.TOKENS and f.offset != hit.offset for t in f.tokens]
    flip(path, at)
    assert verify(folder).refused == (hit.offset != frames_in(whole)[-1].offset)
    found = repair(folder, lambda step: None)
    assert not found.refused
    assert tokens_of(folder) + quarantined_tokens(folder) == readable
    assert say(folder) == 0
    path.write_bytes(whole[:at])
    assert verify(folder).exit_code == 0
    found = repair(folder, lambda step: None)
    assert found.exit_code == 0
    assert tokens_of(folder) == ids[: len(tokens_of(folder))]
    assert len(tokens_of(folder)) == sum(len(f.tokens) for f in frames_in(whole[:at]) if f.type == frames.TOKENS)


def test_a_torn_tail_is_a_note_and_the_chat_mends_it_by_itself(folder, capsys):
    with (folder / "tokens.log").open("ab") as file:
        file.write(b"half a frame")
    assert main([str(folder), "--verify"]) == 0
    out = capsys.readouterr().out
    assert "torn tail at byte" in out
    assert out.splitlines()[-1].startswith("whole: ")
    assert say(folder) == 0
    assert states(folder)["tokens.log"] == "ok"


def test_a_damaged_header_of_the_log_is_written_anew_from_session_json(folder):
    ids = tokens_of(folder)
    flip(folder / "tokens.log", 20)
    assert verify(folder).exit_code == 4
    assert say(folder) == 4
    assert repair(folder, lambda step: None).exit_code == 0
    assert tokens_of(folder) == ids
    assert states(folder)["view.snap"] == "ok"
    assert say(folder) == 0


def test_with_both_heads_gone_nothing_is_guessed_and_nothing_changed(folder, capsys):
    flip(folder / "tokens.log", 20)
    (folder / "session.json").write_bytes(b"{")
    before = fingerprint(folder)
    assert main([str(folder), "--repair"]) == 4
    assert "cannot be mended" in capsys.readouterr().err
    assert fingerprint(folder) == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "x"}', "other tokenizer"])
def test_a_damaged_session_json_is_moved_aside_and_written_anew(folder, content):
    path, ids = folder / "session.json", tokens_of(folder)
    content = path.read_text().replace('"vocab": ', '"vocab": 1') if content == "other tokenizer" else content
    path.write_text(content)
    assert verify(folder).exit_code == 4
    assert say(folder) == 4
    done: list[str] = []
    assert repair(folder, done.append).exit_code == 0
    assert done == ["session.json: moved to quarantine/; the next opening writes it anew"]
    (kept,) = (folder / "quarantine").iterdir()
    assert kept.read_text() == content
    assert say(folder) == 0
    assert tokens_of(folder)[: len(ids)] == ids
    assert states(folder)["session.json"] == "ok"


def test_damaged_turns_are_a_note(folder):
    lines = (folder / "turns.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "turns.jsonl").write_bytes(lines[0] + b"[broken\n" + b"".join(lines[1:]))
    assert states(folder)["turns.jsonl"] == f"damaged at byte {len(lines[0])}"
    assert verify(folder).exit_code == 0
    (folder / "turns.jsonl").write_bytes(lines[0] + lines[1][:-3])
    assert states(folder)["turns.jsonl"] == f"torn tail at byte {len(lines[0])}"
    assert repair(folder, lambda step: None).exit_code == 0
    assert (folder / "turns.jsonl").read_bytes() == lines[0]
    (kept,) = (folder / "quarantine").iterdir()
    assert kept.read_bytes() == lines[1][:-3]


def test_a_lost_log_is_told_and_not_made_up(folder, capsys):
    (folder / "tokens.log").unlink()
    assert main([str(folder), "--verify"]) == 4
    assert "the session's tokens are gone" in capsys.readouterr().out
    assert main([str(folder), "--repair"]) == 4
    assert say(folder) == 4
    assert not (folder / "tokens.log").exists()


# What can be made again -----------------------------------------------------------------------------------------------


def derived(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.ctx"), *folder.glob("*.snap"), *folder.glob("lexical/*.lex")])


def places(path: Path) -> list[int]:
    """Bytes that matter: of the header, and of what follows."""
    size, dice = path.stat().st_size, np.random.default_rng(len(path.name))
    if path.suffix == ".ctx":
        return [0, 9, 30, 62, 4096, 4096 + 9, 4096 + 40]
    return [0, 9, 30, 62, *(int(at) for at in dice.integers(64, size, 4))]


def test_every_changed_byte_of_a_derived_file_is_told_costs_no_token_and_is_repaired(folder):
    ids = tokens_of(folder)
    for path in derived(folder):
        whole, name = path.read_bytes(), str(path.relative_to(folder))
        for at in places(path):
            flip(path, at)
            assert states(folder)[name].startswith(("damaged", "unusable")), (name, at)
            assert verify(folder).exit_code == 0
            done: list[str] = []
            found = repair(folder, done.append)
            assert [step.split(":")[0] for step in done] == [name]
            assert not [file for file in found.files if file.state in ("damaged", "unusable")], (name, at)
            assert tokens_of(folder) == ids
            path.write_bytes(whole)
    assert set(states(folder).values()) == {"ok"}


def test_a_missing_or_short_derived_file_costs_no_token_and_the_chat_goes_on(folder):
    ids = tokens_of(folder)
    for path in derived(folder):
        whole, name = path.read_bytes(), str(path.relative_to(folder))
        path.unlink()
        assert verify(folder).exit_code == 0
        assert name != "view.snap" or states(folder)[name] == "missing"
        path.write_bytes(whole[: len(whole) // 2 + 30])
        assert verify(folder).exit_code == 0
    assert states(folder)["view.snap"] == "damaged at byte 0"
    assert say(folder) == 0
    assert tokens_of(folder)[: len(ids)] == ids
    assert not [file for file in verify(folder).files if file.state == "damaged" and "/" not in file.name]


def test_a_damaged_page_is_named_with_its_place(folder):
    flip(folder / "pages.ctx", 4096 + 3 * 4096 + 50)
    (state,) = [file for file in verify(folder).files if file.name == "pages.ctx"]
    assert (state.state, state.at) == ("damaged", 4096 + 3 * 4096)
    assert "1 page damaged (3): made again from tokens when wanted" in state.note
    repair(folder, lambda step: None)
    (state,) = [file for file in verify(folder).files if file.name == "pages.ctx"]
    assert state.state == "ok"
    assert "1 of " in state.note
    assert say(folder) == 0


def test_what_stands_after_tokens_that_were_lost_is_of_no_use(folder):
    data = (folder / "tokens.log").read_bytes()
    (folder / "tokens.log").write_bytes(data[: frames_in(data)[4].offset])
    assert states(folder)["view.snap"] == "unusable"
    assert "of tokens that were lost: never read" in "\n".join(file.note for file in verify(folder).files)
    assert verify(folder).exit_code == 0
    assert say(folder) == 0
    assert states(folder)["view.snap"] == "ok"


def test_what_a_crash_left_over_is_removed_by_repair_alone(folder):
    left = folder / ".view.snap.123.abc.tmp"
    left.write_bytes(b"half")
    assert states(folder)[left.name] == "left over"
    repair(folder, lambda step: None)
    assert not left.exists()


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_a_link_is_told_as_what_the_chat_refuses(folder, tmp_path):
    (folder / "means.ctx").rename(tmp_path / "means.ctx")
    (folder / "means.ctx").symlink_to(tmp_path / "means.ctx")
    assert states(folder)["means.ctx"] == "strange"
    assert verify(folder).exit_code == 4
    assert "first mend means.ctx (a link: " in verify(folder).summary
    assert say(folder) == 4
    assert repair(folder, lambda step: None).exit_code == 4
    assert (folder / "means.ctx").is_symlink()
    (folder / "means.ctx").unlink()
    os.mkfifo(folder / "pages.ctx.pipe")
    assert states(folder)["pages.ctx.pipe"] == "strange"
    assert say(folder) == 4


def test_bytes_without_sense_are_told_never_raised(folder):
    dice = np.random.default_rng(0)
    for path in [path for path in sorted(folder.rglob("*")) if path.is_file()]:
        whole = path.read_bytes()
        for size in (0, 5, 64, 70, 300):
            path.write_bytes(dice.bytes(size))
            verify(folder)
            path.write_bytes(whole[:64] + dice.bytes(size))
            verify(folder)
        path.write_bytes(whole)
    assert verify(folder).exit_code == 0


def test_one_ctx_file_is_told_in_words_an_earlier_one_too(folder, capsys, tmp_path):
    assert main([str(folder / "pages.ctx")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("pages.ctx   version 1   pages of (2, 2, 8, 1) model:bfloat16   maker ")
    assert "every 4,096 bytes from byte 4,096; 0 damaged" in out
    head = struct.pack("<IHHHHH32s18x", 0x4D434354, 1, 0, 32, 2048, 0, b"SmolLM3-3B")
    (tmp_path / "LOD0.ctx").write_bytes(head + np.arange(64, dtype="<u4").tobytes())
    assert main([str(tmp_path / "LOD0.ctx")]) == 0
    out = capsys.readouterr().out
    assert "earlier layout, without a count   level 0   model SmolLM3-3B" in out
    assert "64 tokens as uint32, blocks of 32, width 2048" in out
    (tmp_path / "x.ctx").write_bytes(b"x" * 99)
    assert main([str(tmp_path / "x.ctx")]) == 4
