"""The decode demo as a user runs it: a real process, a real model folder, a real log.

The model is the made-up one that bootstrap makes where no hub can be reached.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from megacontext.config import MemoryConfig
from megacontext.telemetry.schema import validate_line
from tools.bootstrap import seeded_gpt2
from tools.bootstrap.tiny_gpt2 import MODEL, SEEDED
from tools.decode_demo import main
from tools.legacy.demo import show
from tools.legacy.prompt import Prompt

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "SampleText_TinyGPT2.yaml"
PREFIX = "MegaContext> "
TEXT = "It is a truth universally acknowledged, that a memory in possession of a long history must be in want of {}.\n"


class Done(NamedTuple):
    """What a run came to. log: its events, each checked against the schema."""

    code: int
    out: str
    err: str
    log: list[dict[str, Any]]
    path: Path | None

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.log if event["type"] == kind]

    def one(self, kind: str) -> dict[str, Any]:
        (event,) = self.all(kind)
        return event


Run = Callable[..., Done]


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """artifacts/ as bootstrap leaves it offline."""
    folder = tmp_path_factory.mktemp("assets") / "artifacts"
    seeded_gpt2.write(folder / "models" / SEEDED)
    (folder / "corpus").mkdir()
    words = ("a block", "a budget", "caf\u00e9 au lait", "a page", "a view", "its tail") * 10
    (folder / "corpus" / "sample.txt").write_text("".join(map(TEXT.format, words)), encoding="utf-8")
    return folder


def make_home(folder: Path, assets: Path) -> Path:
    """A project folder with the demo's own configuration file."""
    (folder / "configs").mkdir()
    shutil.copy(CONFIG, folder / "configs")
    shutil.copytree(assets, folder / "artifacts")
    return folder


@pytest.fixture
def home(tmp_path: Path, assets: Path) -> Path:
    return make_home(tmp_path, assets)


def environment(**extra: str) -> dict[str, str]:
    """This process's, less what would steer the demo."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MEGACONTEXT_", "HF_"))}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HOME": "nowhere"} | extra


def in_process(home: Path, *flags: str, command: tuple[str, ...] = ("-m", "tools.decode_demo"), **extra: str) -> Done:
    done = subprocess.run(
        [sys.executable, *command, *flags],
        cwd=home,
        env=environment(**extra),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    return read_back(home, done.returncode, done.stdout, done.stderr)


def read_back(home: Path, code: int, out: str, err: str) -> Done:
    """With the newest log of this home."""
    logs = sorted((home / "artifacts" / "run_logs").glob("*.log"), key=lambda path: path.stat().st_mtime_ns)
    events = [validate_line(line) for line in logs[-1].read_bytes().splitlines()] if logs else []
    return Done(code, out, err, events, logs[-1] if logs else None)


@pytest.fixture
def demo(home: Path) -> Run:
    return lambda *flags, **extra: in_process(home, *flags, **extra)


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The same within this process, which has loaded torch already."""
    for name in [name for name in os.environ if name.startswith(("MEGACONTEXT_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", "nowhere")
    monkeypatch.chdir(home)

    def run(*flags: str) -> Done:
        capfd.readouterr()
        return read_back(home, main(flags), *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Done:
    """`python -m tools.decode_demo`, and nothing said."""
    return in_process(make_home(tmp_path_factory.mktemp("default"), assets))


# --- the command with nothing said ---


def test_the_continuation_goes_to_stdout_behind_its_prefix_and_all_else_to_stderr(default: Done) -> None:
    assert default.code == 0, default.err
    assert default.out.startswith(PREFIX)
    assert len(default.out) == len(PREFIX) + 32 + 1
    assert default.out.count("\n") == 1
    assert PREFIX not in default.err


def test_the_log_is_named_after_the_config_and_validates(default: Done) -> None:
    assert default.path is not None
    assert default.path.name.startswith("SampleText_TinyGPT2-")
    flags = [sys.executable, "-m", "tools.validate_log", "--strict", str(default.path)]
    done = subprocess.run(flags, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert default.log[0]["program"] == "decode_demo"
    assert default.log[-1]["exit_code"] == 0


def test_a_prompt_longer_than_the_budget_shows_expansions_and_collapses(default: Done) -> None:
    turn, budget = default.one("turn"), default.one("memory_opened")["working_budget"]
    assert turn["prompt_tokens"] > 1024 > budget == 512
    assert default.all("expand")
    assert default.all("collapse")
    assert all(tick["active_slots"] <= budget for tick in default.all("tick"))


def test_each_tick_has_swap_rate_residency_and_latency(default: Done) -> None:
    ticks = default.all("tick")
    assert len(ticks) > 2
    for tick in ticks:
        assert {"swap_rate", "residency", "latency_ms", "working_budget"} <= set(tick)
    assert any("delta_nll" in tick for tick in ticks)


def test_the_turn_has_the_runbooks_record(default: Done) -> None:
    turn = default.one("turn")
    record = ("prompt_tokens", "working_budget", "swap_rate", "residency", "latency_ms", "delta_nll", "notes")
    assert {*record, "generated_tokens", "delta_nll_baseline", "num_expand"} <= set(turn)
    assert (turn["generated_tokens"], turn["stop"], turn["delta_nll_baseline"]) == (32, "max_tokens", "exact")
    assert turn["notes"].startswith(f"configs/SampleText_TinyGPT2.yaml, {MODEL} seeded {seeded_gpt2.SEED}, ")
    assert "sample-text-demo" in turn["notes"]
    assert "dataset and gistnet not used by the demo" in turn["notes"]


def test_a_made_up_model_is_told_of_loudly_and_the_log_says_which_ran(default: Done) -> None:
    assert f"WARNING: {MODEL} is a made-up model here" in default.err
    assert "made-up" in default.one("warning")["message"]
    summary = default.one("model_loaded")["summary"]
    assert (summary["asked_for"], summary["seeded"], summary["tokenizer"]) == (MODEL, seeded_gpt2.SEED, "bytes")


# --- prompts ---


def test_a_prompt_of_ones_own_is_exactly_that(here: Run) -> None:
    done = here("--prompt", " caf\u00e9\n")
    assert done.one("turn")["prompt_tokens"] == len(" caf\u00e9\n".encode())
    assert not done.all("collapse")


def test_an_empty_prompt_falls_back_to_the_configured_one(demo: Run, default: Done) -> None:
    done = demo("--prompt", "")
    assert done.out == default.out
    assert done.one("turn")["prompt_tokens"] == default.one("turn")["prompt_tokens"]


def test_a_prompt_file_may_be_longer_than_the_budget_and_than_the_models_positions(demo: Run, home: Path) -> None:
    text = (home / "artifacts" / "corpus" / "sample.txt").read_bytes()[:2500]
    (home / "long.txt").write_bytes(text)
    done = demo("--prompt-file", "long.txt", "--log-dir", "artifacts/run_logs")
    assert done.code == 0, done.err
    assert done.one("turn")["prompt_tokens"] == 2500
    assert done.all("expand")


def test_drawing_follows_its_seed(here: Run) -> None:
    flags = ("--prompt", "x", "--set", "base_model.do_sample=true", "--set", "base_model.temperature=5")
    one, again = here(*flags).out, here(*flags).out
    assert one == again
    assert here(*flags, "--set", "demo.seed=7").out != one


# --- settings ---


def test_flags_beat_the_environment_and_both_beat_the_file(demo: Run) -> None:
    done = demo("--set", "base_model.max_new_tokens=3", MEGACONTEXT_MEMORY_BUDGET="640")
    assert done.one("turn")["generated_tokens"] == 3
    assert done.one("turn")["working_budget"] == 640


def test_a_flat_json_file_without_our_sections_is_enough(here: Run, home: Path) -> None:
    values = {"model_name": MODEL, "torch_dtype": "bfloat16", "prompt": "Once upon a time", "max_new_tokens": 4}
    (home / "configs" / "old.json").write_text(json.dumps(values), encoding="utf-8")
    done = here("--config", "configs/old.json")
    assert done.code == 0, done.err
    turn = done.one("turn")
    assert (turn["prompt_tokens"], turn["generated_tokens"]) == (16, 4)
    assert "delta_nll" not in turn
    assert done.one("model_loaded")["summary"]["dtype"] == "bfloat16"


def test_what_does_nothing_is_told(here: Run) -> None:
    done = here("--prompt", "x", "--set", "base_model.trust_remote_code=true", "--set", "base_model.load_kwargs={a: 1}")
    assert done.code == 0
    for words in ("trust_remote_code: true does nothing", "load_kwargs does nothing (a)"):
        assert words in done.err
        assert any(words in event["message"] for event in done.all("warning"))


def test_a_device_that_is_not_there_is_told_and_the_cpu_is_used(demo: Run) -> None:
    done = demo("--prompt", "x", "--set", "base_model.device=cuda", CUDA_VISIBLE_DEVICES="")
    assert done.code == 0, done.err
    assert "base_model.device is cuda, and this machine has none" in done.err
    assert done.one("model_loaded")["summary"]["device"] == "cpu"


@pytest.mark.parametrize("cache", ["full", "none", "recency"])
def test_other_memories_run_too(here: Run, cache: str) -> None:
    done = here("--prompt", "x" * 900, "--set", f"memory.cache={cache}", "--set", "telemetry.delta_nll=off")
    assert done.code == 0, done.err
    assert done.one("memory_opened")["cache"] == cache
    assert done.one("turn")["generated_tokens"] == 32


def test_a_plain_memory_has_no_delta_nll_and_says_so(here: Run) -> None:
    done = here("--prompt", "x", "--set", "memory.cache=full")
    assert "warning: ΔNLL is not measured: memory.cache full has no view to compare" in done.err
    assert "delta_nll" not in done.one("turn")


# --- what can go wrong ---


def test_a_config_that_is_not_there_is_answered_with_those_that_are(demo: Run) -> None:
    done = demo("--config", "configs/SampleText_TinyGTP2.yaml")
    assert done.code == 2
    assert "config not found: configs/SampleText_TinyGTP2.yaml" in done.err
    assert "Did you mean configs/SampleText_TinyGPT2.yaml?" in done.err


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--set", "memory.budgte=3"], 2, "Did you mean memory.budget?"),
        (["--set", "memory.budget"], 2, "write SECTION.FIELD=VALUE"),
        (["--set", "base_model.torch_dtype=int8"], 2, "flag --set: base_model.torch_dtype"),
        (["--promt", "x"], 2, "Did you mean --prompt?"),
        (["--prompt", "x", "--prompt-file", "y"], 2, "not allowed with argument --prompt"),
        (["--prompt-file", "none.txt"], 2, "none.txt: cannot be read"),
        (["--log-dir", "configs/SampleText_TinyGPT2.yaml"], 2, "the event log cannot be written here"),
    ],
)
def test_wrong_usage_exits_with_two(demo: Run, flags: list[str], code: int, words: str) -> None:
    done = demo(*flags)
    assert done.code == code
    assert words in done.err
    assert "Traceback" not in done.err
    assert not done.out


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--set", "base_model.name=a/b"], 3, "python tools/bootstrap_env.py --hub a/b"),
        (["--set", "demo.corpus=none.txt"], 3, "python tools/bootstrap_env.py --only corpus"),
        (
            ["--set", f"memory.budget={MemoryConfig().least_budget - 1}"],
            5,
            f"set it to {MemoryConfig().least_budget} or more",
        ),
        (["--set", "memory.budget=2000"], 5, "set it to 992 or less"),
        (["--set", "memory.cache=full"], 5, "the model was trained on 1,024"),
    ],
)
def test_a_run_that_cannot_be_is_logged_to_its_end(demo: Run, flags: list[str], code: int, words: str) -> None:
    done = demo(*flags)
    assert done.code == done.one("run_end")["exit_code"] == code, done.err
    assert words in done.err
    assert "Traceback" not in done.err
    assert "Traceback" in done.one("error")["traceback"]
    assert not done.out


def test_another_models_configuration_is_refused_with_instructions_where_it_is_not_here(demo: Run, home: Path) -> None:
    shutil.copy(ROOT / "configs" / "Gutenberg_SmolLM3.yaml", home / "configs")
    done = demo("--config", "configs/Gutenberg_SmolLM3.yaml")
    assert done.code == 3
    assert "python tools/bootstrap_env.py --hub HuggingFaceTB/SmolLM2-360M-Instruct" in done.err


def test_an_empty_prompt_of_a_file_is_refused(here: Run, home: Path) -> None:
    (home / "configs" / "mute.yaml").write_text(f"model_name: {MODEL}\nprompt: ''\n", encoding="utf-8")
    done = here("--config", "configs/mute.yaml")
    assert done.code == done.one("run_end")["exit_code"] == 2
    assert "the prompt is empty: give --prompt TEXT" in done.err


def test_debug_shows_tracebacks_and_events(here: Run) -> None:
    done = here("--debug", "--set", "base_model.name=a/b")
    assert "Traceback" in done.err
    assert "[run_start]" in done.err


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_interrupt_leaves_a_whole_log_and_what_was_written(home: Path) -> None:
    flags = [sys.executable, "-m", "tools.decode_demo", "--prompt", "x", "--set", "base_model.max_new_tokens=1000000"]
    with subprocess.Popen(
        flags, cwd=home, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        begun = process.stdout.read(len(PREFIX) + 20)
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=60)
    done = read_back(home, process.returncode, begun + rest, err)
    assert done.code == done.one("run_end")["exit_code"] == 130
    turn = done.one("turn")
    assert turn["stop"] == "interrupted"
    assert 20 <= turn["generated_tokens"] < 1000000
    assert done.out.endswith("\n")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_reader_who_leaves_ends_the_run_without_a_complaint(home: Path) -> None:
    flags = [sys.executable, "-m", "tools.decode_demo", "--prompt", "x", "--set", "base_model.max_new_tokens=1000000"]
    with subprocess.Popen(
        flags, cwd=home, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(5)
        process.stdout.close()
        err = process.stderr.read()
    done = read_back(home, process.returncode, "", err)
    assert done.code == done.one("run_end")["exit_code"] == 1
    assert "Traceback" not in done.err
    assert "BrokenPipe" not in done.err
    assert done.log.index(done.one("turn")) < done.log.index(done.one("run_end"))


# --- the command itself ---


def test_it_runs_as_a_script_from_anywhere(home: Path) -> None:
    script = (str(ROOT / "tools" / "decode_demo.py"),)
    done = in_process(home, "--prompt", "x", command=script, PYTHONPATH="", LC_ALL="C", PYTHONUTF8="0")
    assert done.code == 0, done.err
    assert done.out.startswith(PREFIX)


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom tools.decode_demo import main\ncode = main(['--help'])\n"
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'pydantic', 'rich', 'yaml')))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--prompt-file" in done.stdout


def test_gradients_stay_as_they_were(here: Run) -> None:
    import torch

    assert here("--prompt", "x").code == 0
    assert torch.is_grad_enabled()


class Scripted:
    """A continuation that is known."""

    turn = None

    def __init__(self, *pieces: str) -> None:
        self._pieces = pieces

    def pieces(self, prompt: Prompt) -> Any:
        yield from self._pieces


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (("caf\u00e9", "\x1b[2J", "\r\x07", "\u202e"), "caf\u00e9\u241b[2J\u2407\ufffd"),
        ((), ""),
    ],
    ids=["controls", "nothing"],
)
def test_what_a_model_writes_cannot_steer_the_terminal(
    pieces: tuple[str, ...], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show(Scripted(*pieces), Prompt([1], (0, 1)))  # type: ignore[arg-type]
    assert capsys.readouterr().out == f"{PREFIX}{shown}\n"
