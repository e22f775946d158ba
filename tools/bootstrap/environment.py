"""Step: the environment in `.venv`. Third-party packages come from a lock with hashes; torch is installed apart.

torch is apart because its wheels differ by machine: an NVIDIA GPU gets PyPI's build; Linux without one gets the CPU
build from PyTorch's index, and where that index cannot be reached, what pip itself finds (a configured wheel folder,
or PyPI's large build). Locks are in requirements/, written by tools/lock_requirements.py.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tools.bootstrap.step import Step, StepFailed

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_S = 4
EXTRAS = ("dev", "plots", "wandb", "data", "none")  # each has its lock file; "none" is the runtime alone
STAMP = "megacontext-environment.json"


class Environment(Step):
    """A virtual environment with the locked packages, torch, and this project (editable)."""

    name = "environment"

    def __init__(self, root: Path, extra: str = "dev", torch: str = "auto", use_uv: bool = True) -> None:
        self.root, self.extra, self.torch = root, extra, torch
        self.uv = shutil.which("uv") if use_uv else None
        self.venv = root / ".venv"
        self.python = venv_python(root)

    def ready(self) -> bool:
        """The stamp names the inputs of the last complete run; `dev` covers the other extras."""
        if not self.python.is_file():
            return False
        try:
            stamp = json.loads((self.venv / STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return stamp in [self._stamp(extra) for extra in {self.extra, "dev"}]

    def plan(self) -> list[str]:
        create = [] if self.python.is_file() else [f"create .venv with Python {sys.version.split()[0]}"]
        return [
            *create,
            f"install the {self._locked()} packages of {self._lock(self.extra).name} with {self._tool()}, by hash",
            f"install {self._torch_pin()}: {self._torch_build()}",
            "install this project, editable",
        ]

    def lacks_offline(self) -> str | None:
        return f"the environment ({self.venv}) with the packages of {self._lock(self.extra).name}"

    def run(self) -> None:
        (self.venv / STAMP).unlink(missing_ok=True)
        if not self._works():
            self._create()
        lock = str(self._lock(self.extra))
        self._install("--no-deps", "--require-hashes", "-r", lock)
        self._install_torch()
        self._install("--no-deps", "--no-build-isolation", "--editable", str(self.root))
        (self.venv / STAMP).write_text(json.dumps(self._stamp(self.extra)), encoding="utf-8")

    def _create(self) -> None:
        if self.uv:
            self._call([self.uv, "venv", "--seed", "--clear", "--python", sys.executable, str(self.venv)])
            return
        try:
            self._call([sys.executable, "-m", "venv", "--clear", str(self.venv)])
        except StepFailed as error:
            hint = "On Debian and Ubuntu `apt install python3-venv` brings what is missing; uv works without it."
            raise StepFailed(f"{error}\n{hint}") from error

    def _works(self) -> bool:
        """Whether .venv has a Python that runs and has pip (uv makes environments without it)."""
        probe = [str(self.python), "-c", "import pip"]
        return self.python.is_file() and subprocess.run(probe, capture_output=True).returncode == 0

    def _install(self, *arguments: str) -> None:
        if self.uv:
            self._call([self.uv, "pip", "install", "--quiet", "--python", str(self.python), *arguments])
        else:
            self._pip(*arguments)

    def _pip(self, *arguments: str) -> None:
        self._call([str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments])

    def _install_torch(self) -> None:
        """By pip in every case: it knows the user's configured wheel folders, uv does not."""
        pin = self._torch_pin()
        if self._has(pin):
            return
        if self._torch_build() == "CPU build" and sys.platform == "linux":
            if _reachable(CPU_INDEX):
                self._pip(pin, "--index-url", CPU_INDEX)
                return
            print(f"  {CPU_INDEX} cannot be reached: pip takes {pin} from where it is configured to look", flush=True)
            print("  (with PyPI alone that is the build for NVIDIA GPUs, 2.4 GB; it runs on a CPU too)", flush=True)
        self._pip(pin)

    def _has(self, pin: str) -> bool:
        name, _, version = pin.partition("==")
        probe = f"from importlib.metadata import version; print(version({name!r}))"
        found = subprocess.run([str(self.python), "-c", probe], capture_output=True, text=True)
        return found.returncode == 0 and found.stdout.strip().partition("+")[0] == version

    def _call(self, command: list[str]) -> None:
        """Run a command; its output is shown only where it fails."""
        done = subprocess.run(command, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            tail = "\n".join(done.stdout.strip().splitlines()[-12:])
            raise StepFailed(f"exit code {done.returncode} from: {' '.join(command)}\n{tail}")

    def _stamp(self, extra: str) -> dict[str, str]:
        inputs = [self._lock(extra), self.root / "pyproject.toml", self.root / "requirements" / "torch.txt"]
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
        return {"extra": extra, "torch": self.torch, "inputs": digest}

    def _lock(self, extra: str) -> Path:
        return self.root / "requirements" / ("lock.txt" if extra == "none" else f"{extra}.txt")

    def _locked(self) -> int:
        return sum("==" in line for line in self._lock(self.extra).read_text(encoding="utf-8").splitlines())

    def _torch_pin(self) -> str:
        lines = (self.root / "requirements" / "torch.txt").read_text(encoding="utf-8").splitlines()
        return next(line.strip() for line in lines if line.startswith("torch=="))

    def _torch_build(self) -> str:
        gpu = self.torch == "gpu" or (self.torch == "auto" and _has_nvidia_gpu())
        return "build for NVIDIA GPUs" if gpu else "CPU build"

    def _tool(self) -> str:
        return "uv" if self.uv else "pip"


def venv_python(root: Path) -> Path:
    """Where the environment's Python stands, or will stand."""
    return root / ".venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _has_nvidia_gpu() -> bool:
    tool = shutil.which("nvidia-smi")
    return bool(tool) and subprocess.run([str(tool), "-L"], capture_output=True).returncode == 0


def _reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/", method="HEAD"), timeout=PROBE_S):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500  # somebody answers there
    except OSError:
        return False
