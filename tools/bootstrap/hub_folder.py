"""Step: any model of the Hugging Face hub as a folder, `artifacts/models/<owner>--<name>`.

Files are gathered in the cache, each resuming on its own, and move to the folder when all of them are there. What lies
in the folder beside them is left alone. `.hub.json` keeps the revision and the digests: `ready` asks no network.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from tools.bootstrap import hub
from tools.bootstrap.fetch import RemoteFile, fetch
from tools.bootstrap.hub import Listing
from tools.bootstrap.step import Step, StepFailed, megabytes

STAMP = ".hub.json"


class HubFolder(Step):
    """model: `owner/name`."""

    def __init__(self, root: Path, model: str) -> None:
        self.name = self.model = model
        folder = model.replace("/", "--")
        self.folder = root / "artifacts" / "models" / folder
        self.cache = root / "artifacts" / "models" / ".cache" / "hub" / folder
        self._listing: Listing | None = None

    def ready(self) -> bool:
        try:
            stamp = json.loads((self.folder / STAMP).read_text(encoding="utf-8"))
            files = [RemoteFile(**entry) for entry in stamp["files"]]
        except (OSError, ValueError, TypeError, KeyError):
            return False
        return bool(files) and all(file.is_at(self.folder / file.name) for file in files)

    def plan(self) -> list[str]:
        listing = self.listing()
        return [f"fetch {listing.url(f)} ({megabytes(f.size)}, {f.digest})" for f in self._missing(listing)]

    def lacks_offline(self) -> str | None:
        return f"the model {self.model} ({self.folder})"

    def run(self) -> None:
        listing = self.listing()
        gathered = self.cache / listing.revision
        for file in self._missing(listing):
            fetch(listing.url(file), file, gathered / file.name, gathered, hub.token())
        self._settle(listing, gathered)

    def listing(self, timeout: float | None = None) -> Listing:
        """What the hub has of this model; asked once."""
        if self._listing is None:
            self._listing = hub.list_model(self.model) if timeout is None else hub.list_model(self.model, timeout)
        return self._listing

    def _missing(self, listing: Listing) -> list[RemoteFile]:
        places = (self.folder, self.cache / listing.revision)
        return [file for file in listing.files if not any(file.is_at(place / file.name) for place in places)]

    def _settle(self, listing: Listing, gathered: Path) -> None:
        """Everything is here: move it, and write down what it is."""
        stamp = {"model": listing.model, "revision": listing.revision, "files": [vars(f) for f in listing.files]}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for file in listing.files:
                if (gathered / file.name).is_file():
                    os.replace(gathered / file.name, self.folder / file.name)
            (self.folder / STAMP).write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise StepFailed(f"could not write {self.folder}: {error}") from error
        shutil.rmtree(self.cache, ignore_errors=True)
