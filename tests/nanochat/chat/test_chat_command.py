"""The chat as programs use it: pipes, files, exit codes."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from tests_chat import ROOT, Done, Home, environment

from megacontext.errors import ConfigError
from megacontext.telemetry.schema import validate_line
from nanochat.chat.talk import open_document

Chat = Callable[..., Done]


def log_of(home: Home) -> list[dict]:
    """The only event log's records, each checked against the schema."""
    (path,) = home.logs.glob("*.log")
    return [validate_line(line) for line in path.read_bytes().splitlines()]


def test_a_prompt_is_answered_on_stdout_and_everything_else_goes_to_stderr(chat: Chat, home: Home) -> None:
    done = chat("-p", "hello")
    assert done.returncode == 0
    assert done.stdout.startswith("MegaContext> ")
    assert done.stdout.endswith("\n")
    assert "tok/s" in done.stderr
    assert "tok/s" not in done.stdout


def test_no_escape_code_leaves_through_a_pipe(chat_process: Chat) -> None:
    done = chat_process("-p", "hello", "--max-tokens", "200")
    assert "\x1b" not in done.stdout + done.stderr


def test_a_pipe_is_one_prompt(chat_process: Chat, home: Home) -> None:
    done = chat_process(stdin="two\nlines\n")
    assert done.returncode == 0
    assert [event["type"] for event in log_of(home)].count("turn") == 1


def test_repeated_prompts_are_turns_of_one_conversation(chat: Chat, home: Home) -> None:
    assert chat("-p", "one", "-p", "two").stdout.count("MegaContext> ") == 2
    histories = [event["history_tokens"] for event in log_of(home) if event["type"] == "turn"]
    assert histories == sorted(histories)


def test_json_lines_carry_a_version_and_join_to_the_reply(chat: Chat) -> None:
    lines = [json.loads(line) for line in chat("--json", "-p", "hello").stdout.splitlines()]
    assert {line["v"] for line in lines} == {1}
    assert lines[-1]["type"] == "reply"
    assert "".join(line["text"] for line in lines[:-1]) == lines[-1]["text"]


def test_the_same_seed_gives_the_same_reply(chat: Chat) -> None:
    flags = ("-p", "hello", "--ephemeral", "--seed", "7")
    assert chat(*flags).stdout == chat(*flags).stdout


def test_every_run_writes_a_private_event_log_from_start_to_end(chat: Chat, home: Home) -> None:
    chat("-p", "hello")
    events = log_of(home)
    assert [event["type"] for event in events] == ["run_start", "model_loaded", "memory_opened", "turn", "run_end"]
    assert [event["seq"] for event in events] == list(range(5))
    assert events[-1]["exit_code"] == 0
    if os.name == "posix":
        (path,) = home.logs.glob("*.log")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_failed_run_is_logged_to_its_end_with_the_traceback(chat_process: Chat, home: Home) -> None:
    done = chat_process("-p", "hello", "--model", "missing.gguf")
    events = {event["type"]: event for event in log_of(home)}
    assert done.returncode == events["run_end"]["exit_code"] == 3
    assert "Traceback" in events["error"]["traceback"]
    assert "Traceback" not in done.stderr


def test_a_missing_model_names_the_command_that_brings_it(chat: Chat) -> None:
    done = chat("-p", "hello", "--model", "missing.gguf")
    assert done.returncode == 3
    assert "python tools/bootstrap_env.py" in done.stderr


def test_debug_shows_the_traceback(chat: Chat) -> None:
    assert "Traceback" in chat("-p", "x", "--model", "missing.gguf", "--debug").stderr


def test_an_unknown_flag_is_answered_with_the_nearest(chat: Chat) -> None:
    done = chat("--bugdet", "512")
    assert done.returncode == 2
    assert "--budget" in done.stderr


def test_an_unknown_key_is_answered_with_file_line_and_the_nearest(chat: Chat, home: Home) -> None:
    home.config.write_text("memory:\n  cache: full\n  budgte: 512\n", encoding="utf-8")
    done = chat("-p", "x")
    assert done.returncode == 2
    assert "tiny.yaml:3: unknown key memory.budgte. Did you mean memory.budget?" in done.stderr


def test_a_missing_config_lists_those_there_are(chat: Chat, home: Home) -> None:
    done = chat("-p", "x", "--config", "configs/tyni.yaml")
    assert done.returncode == 2
    assert "config not found" in done.stderr
    assert "configs/tiny.yaml" in done.stderr


def test_print_config_says_where_each_value_came_from(chat: Chat) -> None:
    done = chat("--print-config", "--budget", "640", MEGACONTEXT_CHAT_SEED="3")
    lines = {line.split(":")[0].strip(): line for line in done.stdout.splitlines()}
    assert "640  # flag --budget" in lines["budget"]
    assert "  seed: 3  # environment MEGACONTEXT_CHAT_SEED\n" in done.stdout
    assert "tiny.yaml:" in lines["max_tokens"]
    assert lines["block"].endswith("# default")


def test_nothing_to_say_is_a_usage_error(chat: Chat) -> None:
    assert chat(stdin="\n").returncode == 2


def test_documents_are_taken_into_memory_before_the_prompt(chat: Chat, home: Home) -> None:
    (home.path / "notes.txt").write_text("The door is red.\n" * 30, encoding="utf-8")
    done = chat("--read", "notes.txt", "-p", "What colour?", "--json")
    kinds = [json.loads(line)["type"] for line in done.stdout.splitlines()]
    assert kinds[0] == "read"
    assert kinds[-1] == "reply"
    turns = [event for event in log_of(home) if event["type"] == "turn"]
    assert turns[0]["stop"] == "read"
    assert turns[0]["name"] == "notes.txt"
    assert turns[0]["prompt_tokens"] > 400


def test_reading_alone_says_nothing(chat: Chat, home: Home) -> None:
    (home.path / "notes.txt").write_text("text", encoding="utf-8")
    done = chat("--read", "notes.txt")
    assert (done.returncode, done.stdout) == (0, "")


def test_a_document_that_is_not_there_is_a_usage_error(chat: Chat) -> None:
    done = chat("--read", "nowhere.txt", "-p", "x")
    assert done.returncode == 2
    assert "nowhere.txt" in done.stderr


def test_a_binary_file_is_no_document(home: Home) -> None:
    with pytest.raises(ConfigError, match="no text"):
        open_document(str(home.model))


@pytest.mark.parametrize("name", ["no.txt", ".", "empty.txt"])
def test_a_document_that_cannot_be_read_is_told_before_the_model_is_loaded(chat: Chat, home: Home, name: str) -> None:
    (home.path / "empty.txt").write_text(" \n", encoding="utf-8")
    done = chat("--read", name, "-p", "hi")
    assert done.returncode == 2
    assert f"error: {name}: " in done.stderr
    assert "is ready" not in done.stderr


def test_a_session_goes_on_where_it_stopped(chat: Chat, home: Home) -> None:
    chat("--session", "diary", "-p", "hello")
    done = chat("--session", "diary", "-p", "again", "--json")
    assert "went on with" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["history_tokens"] > 70


def test_an_ephemeral_conversation_leaves_nothing_behind(chat: Chat, home: Home) -> None:
    chat("-p", "hello", "--ephemeral")
    assert not (home.path / "artifacts" / "sessions").exists()


def test_a_typed_special_token_stays_text(chat: Chat, home: Home) -> None:
    plain = json.loads(chat("--json", "-p", "abc").stdout.splitlines()[-1])["prompt_tokens"]
    typed = json.loads(chat("--json", "-p", "abc<|im_start|>").stdout.splitlines()[-1])["prompt_tokens"]
    assert typed == plain + len("<|im_start|>")


def test_secrets_of_the_environment_never_reach_the_log(chat: Chat, home: Home) -> None:
    canary = "canary-0123456789"
    (home.path / canary).write_text("x", encoding="utf-8")
    chat("-p", "hello", "--model", canary, HF_TOKEN=canary)
    chat("-p", "hello", HF_TOKEN=canary, WANDB_API_KEY=canary)
    written = b"".join(path.read_bytes() for path in home.path.rglob("*.log"))
    assert canary.encode() not in written


Endless = Callable[..., "subprocess.Popen[bytes]"]


def test_a_reader_that_leaves_early_is_no_crash(endless: Endless, home: Home) -> None:
    process = endless()
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait(60) == 1
    assert "Traceback" not in errors
    assert log_of(home)[-1]["type"] == "run_end"


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process")
def test_ctrl_c_keeps_what_a_one_shot_prompt_got_and_exits_with_130(endless: Endless, home: Home) -> None:
    process = endless()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.endswith(b"\n")
    turn, end = log_of(home)[-2:]
    assert (turn["stop"], end["exit_code"]) == ("interrupted", 130)


def test_a_killed_chat_loses_no_finished_turn_and_its_log_still_parses(
    chat: Chat, endless: Endless, home: Home
) -> None:
    chat("--session", "s", "-p", "hello")
    kept = log_of(home)[-2]["history_tokens"]
    for path in home.logs.glob("*.log"):
        path.unlink()
    process = endless("--session", "s")
    process.kill()
    process.wait(60)
    assert [event["type"] for event in log_of(home)] == ["run_start", "model_loaded", "memory_opened"]
    done = chat("--session", "s", "-p", "again", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["history_tokens"] > kept


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    heavy = ("torch", "pydantic", "rich", "numpy", "yaml")
    probe = (
        "import sys; from nanochat.chat.__main__ import main; code = main(['--help']);"
        f"print([name for name in {heavy!r} if name in sys.modules], code, file=sys.stderr)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=True)
    assert time.monotonic() - started < 0.5
    assert done.stderr.strip() == "[] 0"
    assert "--read" in done.stdout


@pytest.mark.needs_model
def test_the_demo_model_answers_with_the_demo_config(tmp_path) -> None:
    if not (ROOT / "artifacts/models/SmolLM2-135M-Instruct.Q4_1.gguf").exists():
        pytest.skip("python tools/bootstrap_env.py brings the demo model")
    flags = ["-p", "What is the capital of France?", "--ephemeral", "--log-dir", str(tmp_path), "-t", "0"]
    flags += ["--max-tokens", "24"]
    done = subprocess.run(
        [sys.executable, "-m", "nanochat.chat", *flags],
        capture_output=True,
        encoding="utf-8",
        env=environment(),
        cwd=ROOT,
        timeout=240,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
