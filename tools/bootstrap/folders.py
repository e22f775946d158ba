"""Step: the folders that runs write to. What a person said stays private: logs and sessions are for the owner only."""

from __future__ import annotations

from pathlib import Path

from tools.bootstrap.step import Step

PRIVATE, SHARED = 0o700, 0o755
FOLDERS = {"run_logs": PRIVATE, "sessions": PRIVATE, "checkpoints": SHARED, "models": SHARED, "corpus": SHARED}


class Folders(Step):
    name = "folders"

    def __init__(self, root: Path) -> None:
        self.artifacts = root / "artifacts"

    def ready(self) -> bool:
        return all((self.artifacts / name).is_dir() for name in FOLDERS)

    def plan(self) -> list[str]:
        return [f"create artifacts/{name} (mode {mode:04o})" for name, mode in FOLDERS.items()]

    def run(self) -> None:
        for name, mode in FOLDERS.items():
            folder = self.artifacts / name
            if not folder.is_dir():
                folder.mkdir(parents=True)
                folder.chmod(mode)
