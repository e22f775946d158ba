"""Write requirements/*.txt: every third-party package of pyproject.toml, pinned and hashed, for Python 3.10 to 3.14.

Needs uv (`pip install uv`). torch and what only torch's GPU build needs are left out: their wheels differ by machine,
and tools/bootstrap_env.py installs them apart. Versions that stand in a lock stay, unless --upgrade is given.

    python tools/lock_requirements.py [--upgrade]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
EXTRAS = ("dev", "plots", "wandb", "data")  # the largest first: the others keep to its versions
LOCKS = {**{f"{extra}.txt": ("--extra", extra) for extra in EXTRAS}, "lock.txt": ()}
BUILD = "setuptools>=77\n"  # builds the project itself, without an isolated download
APART = re.compile(r"^(torch|triton|nvidia-|cuda-)")
HEADER = """# {summary}
# Written by tools/lock_requirements.py; do not edit. Installed by tools/bootstrap_env.py with --require-hashes.
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lock_requirements", description="Pin and hash every third-party package.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    upgrade = parser.parse_args(argv).upgrade
    uv = shutil.which("uv")
    if uv is None:
        print("lock_requirements: uv is not on PATH; `pip install uv` brings it", file=sys.stderr)
        return 1
    preferred = "" if upgrade else _read(FOLDER / "dev.txt")
    for name, extra in LOCKS.items():
        text = compile_lock(uv, extra, preferred)
        preferred = preferred or text
        summary = f"The runtime's packages{' and those of the extra ' + extra[1] if extra else ''}, torch aside."
        (FOLDER / name).write_text(HEADER.format(summary=summary) + text, encoding="utf-8", newline="\n")
        print(f"requirements/{name}: {sum('==' in line for line in text.splitlines())} pins")
    return 0


def compile_lock(uv: str, extra: tuple[str, ...], preferred: str) -> str:
    """One universal resolution; the versions in `preferred` (a lock's text) are kept where they fit."""
    with tempfile.TemporaryDirectory() as folder:
        build, out = Path(folder, "build.in"), Path(folder, "lock.txt")
        build.write_text(BUILD, encoding="utf-8")
        out.write_text(preferred, encoding="utf-8")
        quiet = ("--quiet", "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links")
        command = [uv, "pip", "compile", "--universal", "--generate-hashes", "--python-version", "3.10", *quiet]
        inputs = ["pyproject.toml", str(build), "--constraint", "requirements/torch.txt", *extra, "-o", str(out)]
        subprocess.run([*command, *inputs], cwd=ROOT, check=True)
        return without_torch(out.read_text(encoding="utf-8"))


def without_torch(lock: str) -> str:
    """Drop each pin of torch and its GPU packages, with the hash lines below it."""
    pins = re.split(r"^(?=\S)", lock, flags=re.MULTILINE)
    return "".join(pin for pin in pins if not APART.match(pin))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    raise SystemExit(main())
