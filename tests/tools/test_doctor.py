"""The doctor on what a run needs: each trouble of the runbook's list is found, named, and given a remedy."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tools import doctor
from tools.bootstrap import hub, seeded_gpt2
from tools.diagnosis import assets, environment
from tools.diagnosis.finding import Finding

ROOT = Path(__file__).resolve().parents[2]
needs_posix_modes = pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
as_root = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which everything is in order: the made-up model, private folders, a corpus of its own."""
    for name in [name for name in os.environ if name.startswith(("MEGACONTEXT_", "HF_", "WANDB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    seeded_gpt2.write(tmp_path / "artifacts" / "models" / "tiny-gpt2-seeded")
    for name in ("run_logs", "sessions"):
        (tmp_path / "artifacts" / name).mkdir(mode=0o700)
    (tmp_path / "configs").mkdir()
    config(tmp_path, "model:\n  path: artifacts/models/tiny-gpt2-seeded\n")
    return tmp_path


def config(project: Path, text: str, name: str = "megacontext_demo.yaml") -> str:
    path = project / "configs" / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def look(config: str = "configs/megacontext_demo.yaml") -> dict[str, Finding]:
    """What is found of the assets, by check."""
    return {finding.check: finding for finding in assets.examine(config)[1]}


def run(*flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "utf8", "-m", "tools.doctor", *flags]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environ}
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=settings)


# --- the command ---


def test_each_check_has_a_line_and_a_trouble_has_a_remedy_below(project: Path) -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(line.startswith(("ok ", "warn ", "fail ", " " * 18 + " -> ")) for line in lines[:-1])
    for line, below in pairwise(lines):
        assert line.startswith(("warn", "fail")) == below.startswith(" ")
    assert lines[-1].startswith("0 fail, 2 warn, ")  # the model is made up, and there is no corpus
    assert [line.split()[1] for line in lines if not line.startswith(" ")][:6] == [
        *("python", "packages", "torch", "optional", "wandb", "hub")
    ]


def test_json_has_the_worst_state_and_every_check(project: Path) -> None:
    (project / "artifacts" / "models" / "tiny-gpt2-seeded" / "model.safetensors").unlink()
    done = run("--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert answer["state"] == "fail"
    weights = next(check for check in answer["checks"] if check["check"] == "weights")
    assert weights["state"] == "fail"
    assert "bootstrap_env.py" in weights["remedy"]


def test_the_help_loads_no_heavy_package() -> None:
    program = (
        "import sys\nfrom tools import doctor\n"
        "try:\n    doctor.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'pydantic', 'yaml', 'rich', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--log" in done.stdout


@pytest.mark.parametrize("flags", [["--sauce"], ["--log", "nowhere.log"]])
def test_a_flag_or_a_log_that_does_not_exist_is_a_usage_error(project: Path, flags: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        doctor.main(flags)
    assert stop.value.code == 2


def test_a_python_without_the_packages_is_told_how_to_get_them(project: Path) -> None:
    command = [sys.executable, "-S", "-m", "tools.doctor"]  # -S: no installed packages
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1
    assert "fail  torch" in done.stdout
    assert "fail  config       cannot be checked: No module named 'pydantic'" in done.stdout
    assert "bootstrap_env.py --only env" in done.stdout


# --- configuration ---


def test_a_config_that_is_not_there_is_named_with_those_that_are(project: Path) -> None:
    found = look("configs/megacontext_dmeo.yaml")["config"]
    assert found.state == "fail"
    assert "config not found" in found.what
    assert "configs/megacontext_demo.yaml" in found.what
    assert "ls configs" in found.remedy


def test_a_key_that_does_not_exist_is_named_with_file_line_and_nearest(project: Path) -> None:
    found = look(config(project, "memory:\n  budgte: 512\n"))["config"]
    assert found.state == "fail"
    assert "megacontext_demo.yaml:2: unknown key memory.budgte. Did you mean memory.budget?" in found.what


def test_the_other_checks_go_on_with_the_defaults_where_a_config_is_wrong(project: Path) -> None:
    found = look(config(project, "memory: 3\n"))
    assert found["config"].state == "fail"
    assert {"run_logs", "disk", "weights", "corpus"} <= set(found)


def test_an_earlier_configuration_is_understood(project: Path) -> None:
    path = config(project, "name: demo\nbase_model:\n  name: sshleifer/tiny-gpt2\n", "earlier.yaml")
    found = look(path)
    assert found["config"].state == "ok"
    assert found["weights"].state == "warn"
    assert "made up, random weights (seed 42)" in found["weights"].what
    assert "--hub sshleifer/tiny-gpt2" in found["weights"].remedy
    assert "sessions" not in found


def test_a_model_of_the_hub_that_is_not_here_is_named_with_the_command_that_brings_it(project: Path) -> None:
    path = config(project, "base_model:\n  name: owner/large\n", "earlier.yaml")
    found = look(path)["weights"]
    assert found.state == "fail"
    assert "--hub owner/large" in found.what


# --- folders, disk ---


@pytest.mark.parametrize("name", ["run_logs", "sessions"])
def test_a_file_in_the_place_of_a_folder_fails(project: Path, name: str) -> None:
    folder = project / "artifacts" / name
    folder.rmdir()
    folder.write_text("in the way")
    assert look()[name].state == "fail"
    assert "is a file" in look()[name].what


@needs_posix_modes
@pytest.mark.skipif(as_root, reason="root may write everywhere")
def test_a_folder_without_write_permission_fails(project: Path) -> None:
    folder = project / "artifacts" / "run_logs"
    folder.chmod(0o500)
    found = look()["run_logs"]
    folder.chmod(0o700)
    assert found.state == "fail"
    assert "Permission denied" in found.what
    assert "telemetry.log_dir" in found.remedy


def test_a_folder_on_which_writing_fails_is_told_with_the_systems_words(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(assets.tempfile, "TemporaryFile", refuse)
    assert look()["run_logs"].state == "fail"
    assert "cannot be written to: Permission denied" in look()["run_logs"].what


def test_a_folder_that_cannot_be_made_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "artifacts" / "run_logs").rmdir()
    monkeypatch.setattr(assets, "_refusal", lambda folder: "Read-only file system")
    assert "is not there and cannot be made: Read-only file system" in look()["run_logs"].what


@needs_posix_modes
def test_a_folder_that_others_can_read_is_a_warning(project: Path) -> None:
    (project / "artifacts" / "sessions").chmod(0o755)
    found = look()["sessions"]
    assert found.state == "warn"
    assert found.remedy.startswith("chmod 700 ")


def test_a_folder_that_the_first_run_makes_is_a_warning(project: Path) -> None:
    (project / "artifacts" / "sessions").rmdir()
    assert look()["sessions"].state == "warn"


@pytest.mark.parametrize(("free", "state"), [(50_000_000, "fail"), (500_000_000, "warn"), (5_000_000_000, "ok")])
def test_little_room_is_a_warning_and_none_fails(
    project: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    monkeypatch.setattr(assets.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    assert look()["disk"].state == state


def test_a_corpus_that_is_not_there_matters_only_to_who_reads_it(project: Path) -> None:
    assert look()["corpus"].state == "warn"
    assert "--only corpus" in look()["corpus"].remedy
    path = config(project, "base_model:\n  name: sshleifer/tiny-gpt2\ndemo:\n  corpus_tokens: 64\n", "earlier.yaml")
    assert look(path)["corpus"].state == "fail"


# --- weights and tokenizers ---


def test_a_model_that_is_not_there_fails_with_the_command_that_brings_it(project: Path) -> None:
    found = look(config(project, "model:\n  path: artifacts/models/none.gguf\n"))
    assert found["weights"].state == "fail"
    assert "no model at" in found["weights"].what
    assert "bootstrap_env.py --only model" in found["weights"].remedy
    assert "tokenizer" not in found


def cut_off(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def no_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0notjson!")


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def half_the_shards(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def torn_pickle(folder: Path) -> None:
    no_weights(folder)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("pytorch_model/data.pkl", b"x" * 1000)
    (folder / "pytorch_model.bin").write_bytes(data.getvalue()[:-30])


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("<html>")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut_off, "is cut off: 413,463 bytes, its header speaks of 413,464"),
        (no_header, "the header is no safetensors header"),
        (empty, "is cut off, or no safetensors file"),
        (no_weights, "has no weights"),
        (half_the_shards, "names files that are not there: model-2.safetensors"),
        (torn_pickle, "is cut off, or in torch's format from before"),
        (no_json, "is not JSON"),
    ],
)
def test_damaged_weights_fail_and_the_message_says_how(
    project: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(project / "artifacts" / "models" / "tiny-gpt2-seeded")
    found = look()["weights"]
    assert found.state == "fail"
    assert reason in found.what
    assert "bootstrap_env.py" in found.remedy


def test_a_gguf_file_that_is_none_fails(project: Path) -> None:
    (project / "model.gguf").write_bytes(b"<html>not found</html>" * 9)
    found = look(config(project, "model:\n  path: model.gguf\n"))
    assert found["weights"].state == found["tokenizer"].state == "fail"
    assert "not a GGUF file" in found["weights"].what


@pytest.mark.needs_model
def test_the_demo_model_is_known_by_its_hash_and_a_cut_one_is_told(project: Path) -> None:
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    real = ROOT / "artifacts" / "models" / name
    found = look(config(project, f"model:\n  path: {real.as_posix()}\n"))
    assert found["weights"].state == found["tokenizer"].state == "ok"
    assert "49,152 tokens" in found["tokenizer"].what
    with real.open("rb") as file:
        (project / name).write_bytes(file.read(20_000_000))
    assert "is cut off" in look(config(project, f"model:\n  path: {name}\n"))["weights"].what


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({}, "fail"),
        ({"tokenizer.json": "{}"}, "fail"),
        ({"vocab.json": "{}"}, "fail"),
        ({"vocab.json": '{"a": 0}', "merges.txt": ""}, "ok"),
    ],
    ids=["none", "without a vocabulary", "without merges", "GPT-2's own files"],
)
def test_a_tokenizer_is_looked_for_beside_the_weights(project: Path, files: dict[str, str], state: str) -> None:
    folder = project / "artifacts" / "models" / "tiny-gpt2-seeded"
    (folder / "tokenizer.json").unlink()
    for name, text in files.items():
        (folder / name).write_text(text)
    assert look()["tokenizer"].state == state


# --- Python, packages, W&B, the hub ---


@pytest.mark.parametrize(("version", "state"), [((3, 9, 1), "fail"), ((3, 12, 0), "ok"), ((3, 99, 0), "warn")])
def test_a_python_that_is_too_old_fails(version: tuple[int, ...], state: str) -> None:
    assert environment.python(version).state == state


def test_a_package_that_is_too_old_or_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["pydantic>=99", "no-such-package>=1", "PyYAML>=5", 'matplotlib>=99; extra == "plots"']
    monkeypatch.setattr(environment.metadata, "requires", lambda name: needs)
    found = environment.packages()
    assert found.state == "fail"
    assert "pydantic>=99 (found " in found.what
    assert "no-such-package>=1" in found.what
    assert "PyYAML" not in found.what
    assert "matplotlib" not in found.what


KEY = "0123456789" * 4


@pytest.mark.parametrize(
    ("environ", "state", "said"),
    [
        ({}, "ok", "off: nothing is sent"),
        ({"MEGACONTEXT_ENABLE_WANDB": "0"}, "ok", "off"),
        ({"MEGACONTEXT_ENABLE_WANDB": "maybe"}, "warn", "neither yes nor no"),
        ({"MEGACONTEXT_ENABLE_WANDB": "1"}, "warn", "there is no key"),
        ({"MEGACONTEXT_ENABLE_WANDB": "1", "WANDB_API_KEY": "abc"}, "warn", "does not look like a key (3 characters"),
        ({"MEGACONTEXT_ENABLE_WANDB": "1", "WANDB_API_KEY": KEY}, "ok", "online, key set"),
        ({"MEGACONTEXT_ENABLE_WANDB": "True", "WANDB_MODE": "offline"}, "ok", "offline"),
        ({"MEGACONTEXT_ENABLE_WANDB": "1", "WANDB_MODE": "sometimes"}, "warn", "WANDB_MODE=sometimes is none of"),
    ],
)
def test_wandb_is_judged_by_switch_mode_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], state: str, said: str
) -> None:
    monkeypatch.setattr(environment.metadata, "version", lambda name: "0.31.0")
    found = environment.wandb({"HOME": str(tmp_path), **environ})
    assert found.state == state
    assert said in found.what
    assert KEY not in f"{found.what}{found.remedy}"


@pytest.mark.parametrize(
    ("host", "server", "state"),
    [
        ("api.wandb.ai", {}, "ok"),
        ("api.forge.coreweave.com", {}, "ok"),
        ("api.wandb.ai", {"WANDB_BASE_URL": "https://api.forge.coreweave.com"}, "ok"),
        ("wandb.example.org", {"WANDB_BASE_URL": "https://wandb.example.org"}, "ok"),
        ("api.wandb.ai", {"WANDB_BASE_URL": "https://wandb.example.org"}, "warn"),
    ],
)
def test_a_key_that_wandb_login_kept_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, server: dict[str, str], state: str
) -> None:
    """W&B's cloud under either of its names; another server under its own."""
    monkeypatch.setattr(environment.metadata, "version", lambda name: "0.31.0")
    (tmp_path / ".netrc").write_text(f"machine {host} login user password {KEY}\n")
    found = environment.wandb({"HOME": str(tmp_path), "MEGACONTEXT_ENABLE_WANDB": "1", **server})
    assert found.state == state
    assert KEY not in found.what


def test_a_wandb_that_the_runs_refuse_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.metadata, "version", lambda name: "0.19.1")
    found = environment.wandb({"MEGACONTEXT_ENABLE_WANDB": "1", "WANDB_API_KEY": KEY})
    assert (found.state, found.what) == ("warn", "on, and 0.19.1 is older than 0.28.2: nothing is recorded")


def test_wandb_without_its_package_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise environment.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(environment.metadata, "version", absent)
    found = environment.wandb({"MEGACONTEXT_ENABLE_WANDB": "1"})
    assert (found.state, found.remedy) == ("warn", "pip install -e '.[wandb]'")
    assert environment.optional_packages().state == "ok"


def test_a_token_that_no_hub_gives_fails_and_is_not_shown(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_\u00e4canary")
    found = environment.hub_settings()
    assert found.state == "fail"
    assert "canary" not in found.what
    assert environment.hub_online() == found


def test_the_network_is_asked_only_on_request(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*args: Any, **options: Any) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(environment, "open_url", asked)
    assert all(found.state in ("ok", "warn") for found in environment.examine({}, online=False))


def test_a_hub_that_does_not_answer_is_a_warning_within_seconds(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found = environment.hub_online()
    assert found.state == "warn"
    assert "http://127.0.0.1:9 cannot be reached" in found.what


def test_a_token_that_the_hub_refuses_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")

    def refused(url: str, token: str | None, **options: Any) -> Any:
        assert (url, token) == (f"{hub.DEFAULT_ENDPOINT}/api/whoami-v2", "hf_canary")
        raise environment.urllib.error.HTTPError(url, 401, "Unauthorized", {}, io.BytesIO())  # type: ignore[arg-type]

    monkeypatch.setattr(environment, "open_url", refused)
    found = environment.hub_online()
    assert found.state == "fail"
    assert "authentication error" in found.what
    assert "hf_canary" not in found.what
