"""Models of a hub, and the made-up one where there is no hub: what arrives, what is refused, what is said."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from tools import bootstrap_env
from tools.bootstrap import hub, seeded_gpt2, tiny_gpt2
from tools.bootstrap.fetch import AuthenticationFailed, Unreachable
from tools.bootstrap.hub import wanted
from tools.bootstrap.hub_folder import HubFolder
from tools.bootstrap.step import AssetMissing, StepFailed
from tools.bootstrap.tiny_gpt2 import MODEL, TinyGpt2

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_canary"
REVISION = "5f" * 20
FILES = {
    "README.md": b"# a model",
    "config.json": b'{"model_type": "gpt2"}',
    "merges.txt": b"#version: 0.2\n",
    "vocab.json": b"{}",
    "pytorch_model.bin": bytes(range(256)) * 2048,
    "onnx/model.safetensors": b"not ours",
}
IN_LFS = "pytorch_model.bin"


def listing(files: dict[str, bytes]) -> dict[str, Any]:
    """As `/api/models/<name>?blobs=true` answers."""
    siblings: list[dict[str, Any]] = []
    for name, data in files.items():
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        siblings.append({"rfilename": name, "size": len(data), "blobId": blob})
        if name == IN_LFS:
            siblings[-1]["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return {"id": MODEL, "sha": REVISION, "siblings": siblings}


class Server(BaseHTTPRequestHandler):
    """A hub with one model. `status` answers everything with an error, `cut` breaks the line, `spoilt` sends junk."""

    status = 200
    cut: int | None = None
    spoilt = ""
    answer: bytes | None = None
    files: ClassVar[dict[str, bytes]] = {}
    seen: ClassVar[list[tuple[str, str | None, str | None]]] = []  # (path, Range, Authorization)

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Range"], self.headers["Authorization"]))
        if self.status != 200:
            self.send_error(self.status)
        elif self.path == f"/api/models/{MODEL}?blobs=true":
            self._send(self.answer or json.dumps(listing(self.files)).encode())
        elif self.path.startswith(f"/{MODEL}/resolve/{REVISION}/"):
            name = self.path.rpartition("/")[2]
            data = self.files[name]
            self._send(data[::-1] if name == self.spoilt else data)
        else:
            self.send_error(404)

    def _send(self, data: bytes) -> None:
        start = int(self.headers["Range"][6:-1]) if self.headers["Range"] else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:][: self.cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    """A hub that HF_ENDPOINT names; HF_TOKEN is not set."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), type("OneServer", (Server,), {"files": dict(FILES), "seen": []}))
    Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_address[1]}/")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield running.RequestHandlerClass  # type: ignore[misc]
    running.shutdown()
    running.server_close()


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_TOKEN", raising=False)


def there(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def bootstrap(*flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command itself, without installed packages."""
    command = [sys.executable, "-X", "utf8", "-I", "-S", "-B", str(ROOT / "tools" / "bootstrap_env.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env={**os.environ, **environ})


def test_a_model_arrives_as_a_folder_of_the_files_that_are_read(server: type[Server], tmp_path: Path) -> None:
    step = HubFolder(tmp_path, MODEL)
    assert not step.ready()
    step.run()
    models = tmp_path / "artifacts" / "models"
    expected = ["config.json", "merges.txt", "pytorch_model.bin", "vocab.json"]
    assert there(models) == [f"sshleifer--tiny-gpt2/{name}" for name in [".hub.json", *expected]]
    assert all((step.folder / name).read_bytes() == FILES[name] for name in expected)


def test_a_second_run_asks_nothing(server: type[Server], tmp_path: Path) -> None:
    bootstrap_env.run([HubFolder(tmp_path, MODEL)])
    asked = len(server.seen)
    bootstrap_env.run([HubFolder(tmp_path, MODEL)])
    assert len(server.seen) == asked


def test_a_file_that_was_changed_is_fetched_again_and_no_other(server: type[Server], tmp_path: Path) -> None:
    HubFolder(tmp_path, MODEL).run()
    step, asked = HubFolder(tmp_path, MODEL), len(server.seen)
    (step.folder / "vocab.json").write_bytes(b"[]")
    (step.folder / "notes.txt").write_text("mine")
    assert not step.ready()
    step.run()
    assert step.ready()
    assert [path.rpartition("/")[2] for path, _, _ in server.seen[asked + 1 :]] == ["vocab.json"]
    assert (step.folder / "notes.txt").read_text() == "mine"


def test_a_download_that_broke_goes_on_where_it_stopped(server: type[Server], tmp_path: Path) -> None:
    step = HubFolder(tmp_path, MODEL)
    step.listing()
    server.cut = 100_000
    with pytest.raises(Unreachable, match="run the same command again"):
        step.run()
    assert not step.folder.exists()
    server.cut = None
    asked = len(server.seen)
    HubFolder(tmp_path, MODEL).run()
    fetched = [(path.rpartition("/")[2], start) for path, start, _ in server.seen[asked + 1 :]]
    assert fetched == [("pytorch_model.bin", "bytes=100000-")]
    assert step.ready()
    assert not step.cache.exists()


@pytest.mark.parametrize("name", ["vocab.json", "pytorch_model.bin"])
def test_bytes_that_the_hub_did_not_name_are_refused(server: type[Server], tmp_path: Path, name: str) -> None:
    server.files[name] = b"ab" if name == "vocab.json" else server.files[name]
    server.spoilt = name
    step = HubFolder(tmp_path, MODEL)
    with pytest.raises(StepFailed, match="not the pinned file"):
        step.run()
    assert not step.folder.exists()


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(("token", "way_out"), [("", "set HF_TOKEN"), (TOKEN, "check it")])
def test_a_closed_door_is_an_authentication_error_with_the_way_out(
    server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, token: str, way_out: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    server.status = status
    with pytest.raises(AuthenticationFailed, match=f"authentication error.*{status}.*{way_out}.*the name") as refused:
        HubFolder(tmp_path, MODEL).run()
    assert TOKEN not in str(refused.value)


def test_a_model_that_does_not_exist_is_named(server: type[Server], tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match=r"not found: .*/api/models/nobody/nothing\?blobs=true answered 404"):
        HubFolder(tmp_path, "nobody/nothing").run()


def test_the_token_is_sent_with_every_request_to_the_hub(
    server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\n")
    HubFolder(tmp_path, MODEL).run()
    assert {token for _, _, token in server.seen} == {f"Bearer {TOKEN}"}
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>please log in</html>",
        b"[]",
        b'{"sha": "main/..", "siblings": []}',
        json.dumps(listing({"config.json": b"{}", "model.gguf": b""})).encode(),
        json.dumps(listing(FILES)).replace(str(len(FILES[IN_LFS])), '"many"').encode(),
        json.dumps(listing(FILES)).replace('"blobId": "', '"blobId": "../').encode(),
    ],
    ids=["a portal", "a list", "no revision", "no weights", "a size in words", "no digest"],
)
def test_an_answer_that_no_hub_gives_is_refused(server: type[Server], tmp_path: Path, answer: bytes) -> None:
    server.answer = answer
    with pytest.raises(StepFailed, match=r"does not answer as a hub does|no model that can be read"):
        HubFolder(tmp_path, MODEL).run()
    assert there(tmp_path) == []


def test_safetensors_are_preferred_and_shards_come_with_their_index() -> None:
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    names = ["config.json", "pytorch_model.bin", "model.safetensors.index.json", *shards, "model.onnx", "x/config.json"]
    assert wanted(names) == ["config.json", *shards, "model.safetensors.index.json"]


def test_a_dry_run_names_each_file_and_writes_nothing(server: type[Server], tmp_path: Path) -> None:
    lines = HubFolder(tmp_path, MODEL).plan()
    digest = hashlib.sha256(FILES[IN_LFS]).hexdigest()
    assert [line for line in lines if line.endswith(f"{REVISION}/{IN_LFS} (0.5 MB, sha256 {digest})")]
    assert there(tmp_path) == []


def test_offline_a_model_of_the_hub_is_missing(no_hub: None, tmp_path: Path) -> None:
    with pytest.raises(AssetMissing, match="the model owner/name"):
        bootstrap_env.run([HubFolder(tmp_path, "owner/name")], offline=True)


@pytest.mark.parametrize("name", ["gpt2", "a/b/c", "../etc", "a/..", "a/b?x"])
def test_a_name_that_no_hub_has_is_a_usage_error(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        bootstrap_env.main(["--hub", name])
    assert stop.value.code == 2
    assert "OWNER/NAME" in capsys.readouterr().err


def test_an_endpoint_without_a_scheme_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "hub.example.org")
    with pytest.raises(StepFailed, match=r"HF_ENDPOINT is 'hub\.example\.org'; it must begin with https"):
        hub.endpoint()


def test_a_password_in_the_endpoint_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://me:canary@hub.example.org")
    with pytest.raises(StepFailed, match="must not carry a user or a password") as refused:
        hub.endpoint()
    assert "canary" not in str(refused.value)


def test_a_host_that_nobody_can_be_called_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    for endpoint in ("http://..", "http://a b", f"http://{'x' * 80}.org"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(Unreachable, match="the hub cannot be reached"):
            hub.list_model(MODEL)


# --- tiny-gpt2 ---


def test_where_the_hub_answers_the_real_model_comes(
    server: type[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = TinyGpt2(tmp_path)
    step.run()
    assert step.real.ready()
    assert not step.seeded.exists()
    bootstrap_env.run([step])
    assert "WARNING" not in capsys.readouterr().err


def test_without_a_hub_the_made_up_model_comes_and_every_run_says_so(
    no_hub: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for reason in ("the hub cannot be reached: http://127.0.0.1:9", "is not here"):
        bootstrap_env.run([TinyGpt2(tmp_path)])
        told = capsys.readouterr().err
        assert reason in told
        assert "random weights (seed 42)" in told
        assert "--hub sshleifer/tiny-gpt2" in told
    config = json.loads((tmp_path / "artifacts" / "models" / "tiny-gpt2-seeded" / "config.json").read_text())
    assert config["megacontext_seeded"] == 42


def test_offline_the_hub_is_not_even_asked(
    server: type[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bootstrap_env.run([TinyGpt2(tmp_path, offline=True)], offline=True)
    assert server.seen == []
    assert seeded_gpt2.is_whole(tmp_path / "artifacts" / "models" / "tiny-gpt2-seeded")
    assert "--offline" in capsys.readouterr().err


def test_a_refused_token_is_named_before_the_made_up_model_is_taken(
    server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.status = 401
    TinyGpt2(tmp_path).run()
    told = capsys.readouterr().err
    assert "authentication error" in told
    assert "HF_TOKEN was sent and refused" in told
    assert "stands in for it" in told
    assert TOKEN not in told


def test_a_hub_that_never_answers_costs_a_few_seconds(no_hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"did not answer within 0\.2 s"):
        hub.within(0.2, lambda: time.sleep(3))
    assert time.monotonic() - began < 2


def test_the_made_up_model_has_the_same_bytes_everywhere() -> None:
    found = {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in seeded_gpt2.contents().items()}
    assert found == {file.name: (file.size, file.sha256) for file in seeded_gpt2.FILES}


def test_a_spoilt_made_up_model_is_written_anew(no_hub: None, tmp_path: Path) -> None:
    step = TinyGpt2(tmp_path, offline=True)
    step.run()
    (step.seeded / "model.safetensors").write_bytes(b"")
    assert not step.ready()
    step.run()
    assert step.ready()
    assert there(step.seeded) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_the_made_up_weights_have_the_names_and_shapes_of_gpt2(tmp_path: Path) -> None:
    from safetensors import safe_open

    seeded_gpt2.write(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert shapes["transformer.wte.weight"] == (50257, 2)
    assert shapes["transformer.wpe.weight"] == (1024, 2)
    assert shapes["transformer.h.1.attn.c_attn.weight"] == (2, 6)
    assert shapes["transformer.h.0.mlp.c_proj.weight"] == (8, 2)
    assert shapes["transformer.ln_f.bias"] == (2,)
    assert len(shapes) == 2 + 2 * 12 + 2


def test_the_made_up_tokenizer_takes_every_byte_and_no_special_from_text(tmp_path: Path) -> None:
    from megacontext.models.folder_text import FolderText

    seeded_gpt2.write(tmp_path)
    text = FolderText(tmp_path).text(257)
    said = "".join(map(chr, range(0x250))) + " 日本 \U0001f600 <|endoftext|>\r\n"
    assert text.encode(said) == list(said.encode())
    assert text.decode(text.encode(said)) == said
    assert text.stop_ids == {256}
    assert [text.token_bytes(i) for i in range(257)] == [*(bytes([i]) for i in range(256)), b""]


def test_the_command_lists_the_step_and_takes_it_alone(no_hub: None) -> None:
    listed = bootstrap("--dry-run", "--only", "tiny-gpt2", "--only", "corpus", HF_ENDPOINT="http://127.0.0.1:9")
    assert listed.returncode == 0, listed.stderr
    assert {line.split()[1] for line in listed.stdout.splitlines()} == {"folders:", "tiny-gpt2:", "corpus:"}


def test_the_patience_with_a_hub_is_a_few_seconds() -> None:
    assert tiny_gpt2.PATIENCE_S <= 5


def test_the_made_up_model_says_readable_letters_and_more_than_a_few(tmp_path: Path) -> None:
    from megacontext.config import ModelConfig
    from megacontext.models import load_model
    from nanochat.engine import decode, prefill
    from nanochat.kv_cache import DenseCache

    seeded_gpt2.write(tmp_path)
    loaded = load_model(ModelConfig(path=str(tmp_path), dtype="float32", device="cpu"))
    cache = DenseCache(loaded.model.spec)
    logits = prefill(loaded.model, cache, loaded.text.encode("MegaContext compresses history."))
    letters = decode(loaded.model, cache, logits, lambda logits: int(logits.argmax()))
    said = loaded.text.decode([next(letters) for _ in range(48)])
    assert said.isprintable()
    assert len(set(said)) >= 6, said
    assert loaded.summary["seeded"] == 42
