"""The W&B sink with the real wandb, in a process of its own, against no network, dead servers and no package."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from wandb_program import SECRET, TICKS_A_TURN
from wandb_reading import recorded, records, rows_of

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = Path(__file__).with_name("wandb_program.py")
KEY = "0123456789abcdef" * 2 + "01234567"
SOON = 12  # seconds from the start of the program to its first line, when there is no answer


class Done(NamedTuple):
    """What a run of the program came to. lines: of stderr; begin_s, close_s: what the sink took of its time."""

    returncode: int
    lines: list[str]
    seconds: float
    begin_s: float
    close_s: float
    failure: str


def environment(home: Path, **extra: str) -> dict[str, str]:
    """This process's, less every setting of W&B and every key that lies in a home folder."""
    steering = ("WANDB_", "MEGACONTEXT_", "NETRC")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
    return kept | {"PYTHONPATH": str(ROOT), "HOME": str(home), "USERPROFILE": str(home)} | extra


def program(home: Path, *arguments: str, **extra: str) -> Done:
    """Run wandb_program.py in `home`; its logs go to `home/logs`."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "logs", *arguments],
        capture_output=True,
        encoding="utf-8",
        cwd=home,
        env=environment(home, **extra),
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    times = json.loads(done.stdout)  # one object, so wandb wrote nothing to stdout
    return Done(done.returncode, done.stderr.splitlines(), time.monotonic() - started, **times)


def log_of(home: Path) -> Path:
    (path,) = (home / "logs").glob("*.log")
    return path


def warnings(home: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in log_of(home).read_text(encoding="utf-8").splitlines()]
    return [event for event in events if event["type"] == "warning"]


def assert_recorded(home: Path) -> None:
    """Every number of the event log, row by row."""
    rows = rows_of(log_of(home))
    assert sum(row["allocator/ticks"] for row in rows if "tick" in row) == 2 * TICKS_A_TURN
    assert recorded(home / "logs").rows == rows


def test_an_offline_run_holds_every_number_of_the_event_log(tmp_path: Path) -> None:
    done = program(tmp_path, WANDB_MODE="offline")
    assert (done.returncode, done.failure, len(done.lines)) == (0, "None", 1)
    assert "wandb sync" in done.lines[0]
    assert_recorded(tmp_path)
    assert not warnings(tmp_path)


def test_a_run_has_its_name_its_axes_its_totals_and_its_exit_code(tmp_path: Path) -> None:
    program(tmp_path, WANDB_MODE="offline")
    run = recorded(tmp_path / "logs")
    assert (run.name, run.project, run.exit_code) == ("chat/20250131T120000Z", "tests", 0)
    assert run.axes == {"allocator/*": "tick", "latency/*": "tick", "quality/*": "tick", "turn/*": "turn"}
    assert run.config["budget"] == 512
    assert run.config["model_loaded"]["summary"] == {"layers": 2}
    ticks = range(TICKS_A_TURN, 3 * TICKS_A_TURN)
    assert run.summary["total/ticks"] == len(ticks)
    assert run.summary["total/num_expand"] == sum(tick % 3 for tick in ticks)
    assert run.summary["total/prompt_tokens"] == 6 + 7
    assert run.summary["total/events/turn"] == 2


def test_no_secret_no_command_line_and_no_host_name_is_in_wandbs_files(tmp_path: Path) -> None:
    secrets = {"WANDB_API_KEY": KEY, "HF_TOKEN": "hf_canary_of_the_environment"}
    program(tmp_path, str(tmp_path / "canary-of-the-command-line"), WANDB_MODE="offline", **secrets)
    written = b"".join(path.read_bytes() for path in (tmp_path / "logs").rglob("*") if path.is_file())
    assert b"chat/20250131T120000Z" in written
    for canary in (*secrets.values(), SECRET, "canary-of-the-command-line", "wandb_program.py"):
        assert canary.encode() not in written
    (path,) = (tmp_path / "logs").rglob("*.wandb")
    assert str(tmp_path).encode() not in path.read_bytes()
    found = records(path)
    assert not [record["run"]["host"] for record in found if "host" in record.get("run", {})]
    assert not {"environment", "files", "output", "output_raw", "stats"} & {record["type"] for record in found}


@pytest.mark.skipif(os.name != "posix", reason="modes of folders are POSIX")
def test_the_files_lie_beside_the_event_log_for_the_owner_alone(tmp_path: Path) -> None:
    program(tmp_path, WANDB_MODE="offline")
    assert stat.S_IMODE((tmp_path / "logs" / "wandb").stat().st_mode) == 0o700
    assert not (tmp_path / "wandb").exists()


def test_disabled_means_no_files_and_no_line(tmp_path: Path) -> None:
    done = program(tmp_path, WANDB_MODE="disabled")
    assert (done.lines, done.failure) == ([], "None")
    assert not (tmp_path / "logs" / "wandb").exists()


def test_a_mode_that_does_not_exist_is_one_line_and_the_run_goes_on(tmp_path: Path) -> None:
    done = program(tmp_path, WANDB_MODE="ofline")
    (line,) = done.lines
    assert "'offline'" in line
    assert done.returncode == 0
    assert len(warnings(tmp_path)) == 1


def test_an_exception_ends_the_run_as_failed(tmp_path: Path) -> None:
    done = program(tmp_path, "raise", WANDB_MODE="offline")
    run = recorded(tmp_path / "logs")
    assert run.exit_code == 1
    assert run.rows == rows_of(log_of(tmp_path))
    assert done.close_s < 5


def test_without_a_key_it_is_one_line_soon_and_an_offline_run(tmp_path: Path) -> None:
    done = program(tmp_path, WANDB_MODE="online")
    (line,) = done.lines
    assert "no API key" in line
    assert done.begin_s < SOON
    assert_recorded(tmp_path)
    assert "no API key" in warnings(tmp_path)[0]["message"]


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_nobody_is_asked_for_a_key_at_a_terminal(tmp_path: Path) -> None:
    import pexpect

    line = [str(PROGRAM), "logs"]
    child = pexpect.spawn(sys.executable, line, cwd=str(tmp_path), env=environment(tmp_path), encoding="utf-8")
    shown = child.read().splitlines()
    assert [text.split(":")[0] for text in shown if not text.startswith("{")] == ["W&B"]
    assert_recorded(tmp_path)


def test_without_the_package_it_is_one_line_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()  # where wandb once kept its runs: Python takes it for an empty package
    done = subprocess.run(
        [sys.executable, "-S", str(PROGRAM), "logs"],  # the standard library and this project alone
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
        env=environment(tmp_path) | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert ".[wandb]" in line
    assert "not installed" in warnings(tmp_path)[0]["message"]
    assert len(rows_of(log_of(tmp_path))) == 8


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds wandb's service in /proc")
def test_when_wandbs_service_dies_it_is_one_line_and_the_run_goes_on(tmp_path: Path) -> None:
    done = program(tmp_path, "kill", WANDB_MODE="offline")
    assert done.returncode == 0
    assert len(done.lines) == 2
    assert done.lines[1].startswith("W&B records nothing from here on (")  # and why: lost, or reset by peer
    assert len(warnings(tmp_path)) == 1
    assert len(rows_of(log_of(tmp_path))) == 8


class Refusing(BaseHTTPRequestHandler):
    """A W&B that knows no such key."""

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()


class Dying(BaseHTTPRequestHandler):
    """A W&B that lets a run begin, and answers nothing from the moment that a file appears."""

    dead: Path

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.dead.exists() or "UpsertBucket" not in body.get("query", ""):
            time.sleep(60)
            return
        project = {"id": "1", "name": "tests", "entity": {"id": "1", "name": "someone"}}
        bucket = {"id": "1", "name": body["variables"]["name"], "config": "{}", "project": project}
        answer = json.dumps({"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def serve(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def refusing() -> Iterator[str]:
    yield from serve(Refusing)


@pytest.fixture
def dying(tmp_path: Path) -> Iterator[str]:
    Dying.dead = tmp_path / "dead"
    yield from serve(Dying)


def test_a_key_that_is_refused_is_one_line_and_an_offline_run(tmp_path: Path, refusing: str) -> None:
    done = program(tmp_path, WANDB_BASE_URL=refusing, WANDB_API_KEY=KEY)
    (line,) = done.lines
    assert refusing in line
    assert KEY not in line
    assert done.begin_s < SOON
    assert_recorded(tmp_path)


@pytest.mark.slow
def test_without_a_network_it_is_one_line_soon_and_an_offline_run(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    done = program(tmp_path, WANDB_BASE_URL=url, WANDB_API_KEY=KEY)
    (line,) = done.lines
    assert url in line
    assert done.begin_s < SOON
    assert done.seconds < SOON + 3
    assert_recorded(tmp_path)


@pytest.mark.slow
def test_a_server_that_never_answers_is_one_line_soon_and_an_offline_run(tmp_path: Path, silent: str) -> None:
    done = program(tmp_path, WANDB_BASE_URL=silent, WANDB_API_KEY=KEY)
    (line,) = done.lines
    assert silent in line
    assert done.begin_s < SOON
    assert done.seconds < SOON + 3  # nor does the program's end wait for it
    assert_recorded(tmp_path)


@pytest.mark.slow
def test_a_network_that_dies_within_a_run_holds_its_end_up_for_seconds(tmp_path: Path, dying: str) -> None:
    done = program(tmp_path, str(tmp_path / "dead"), WANDB_BASE_URL=dying, WANDB_API_KEY=KEY)
    online, rest = done.lines
    assert f"W&B: {dying}/someone/tests/runs/" in online
    assert "wandb sync" in rest
    assert done.close_s < 7
    assert done.seconds < SOON
    assert done.returncode == 0
