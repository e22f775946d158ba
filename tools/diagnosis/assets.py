"""What a run needs on disk: a valid configuration, folders it may write to, room, weights, a tokenizer, the corpus."""

from __future__ import annotations

import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from megacontext.errors import ConfigError
from tools import sample_corpus
from tools.diagnosis.finding import BOOTSTRAP, Finding, fail, ok, warn
from tools.diagnosis.subject import Subject, default_subject, load_subject
from tools.diagnosis.weights import Unusable, seed_of, tokenizer_of, weights_of

LITTLE, TOO_LITTLE = 1_000_000_000, 100_000_000  # bytes free; a model takes 0.1 GB and more, a log a megabyte


def examine(config: str) -> tuple[Subject, list[Finding]]:
    """All checks of this family, and what they were about: the defaults, where `config` is wrong."""
    try:
        subject = load_subject(config)
        found = [ok("config", f"{subject.name} is valid")]
    except ConfigError as error:
        subject = default_subject()
        remedy = "correct the file or the variable; `ls configs` lists what there is. Below, the defaults are checked"
        found = [fail("config", " ".join(str(error).split("\n")), remedy)]
    return subject, [*found, *_folders(subject), _disk(subject.log_dir), *_model(subject), _corpus(subject)]


def _folders(subject: Subject) -> Iterator[Finding]:
    """Where runs write what people say: writable, and for the owner alone."""
    yield _folder("run_logs", subject.log_dir, "telemetry.log_dir")
    if subject.sessions is not None:
        yield _folder("sessions", subject.sessions, "session.root")


def _folder(check: str, folder: Path, setting: str) -> Finding:
    elsewhere = f"make it writable, or name another folder: {setting}"
    if folder.exists() and not folder.is_dir():
        return fail(check, f"{folder} is a file, not a folder", f"move it away, or name another folder: {setting}")
    if not folder.exists():
        above = next((parent for parent in folder.parents if parent.exists()), folder)
        if reason := _refusal(above):
            return fail(check, f"{folder} is not there and cannot be made: {reason}", elsewhere)
        return warn(check, f"{folder} is not there; the first run makes it", f"{BOOTSTRAP} --no-env")
    if reason := _refusal(folder):
        return fail(check, f"{folder} cannot be written to: {reason}", elsewhere)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if sys.platform != "win32" and mode & 0o077:
        return warn(
            check, f"{folder} is open to others (mode {mode:04o}): it keeps what is said", f"chmod 700 {folder}"
        )
    return ok(check, f"{folder} is writable, for its owner alone")


def _refusal(folder: Path) -> str:
    """Why nothing can be written there, by trying; empty if something can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _disk(folder: Path) -> Finding:
    there = next(parent for parent in (folder, *folder.resolve().parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    said, remedy = f"{free / 1e9:.1f} GB free at {there}", "make room: old logs and sessions are in artifacts/"
    if free < TOO_LITTLE:
        return fail("disk", said, remedy)
    return warn("disk", said, remedy) if free < LITTLE else ok("disk", said)


def _model(subject: Subject) -> Iterator[Finding]:
    if subject.model is None:
        way = "" if BOOTSTRAP in subject.missing else f"`{BOOTSTRAP} --only model` brings the demo model"
        yield fail("weights", subject.missing, way or "see there, or name another model in the configuration")
        return
    damaged = f"fetch it again: move it away, then `{BOOTSTRAP}` (or `{BOOTSTRAP} --hub OWNER/NAME`)"
    try:
        said = weights_of(subject.model)
        seed = seed_of(subject.model)
        if seed is None:
            yield ok("weights", said)
        else:
            remedy = f"with a network, `{BOOTSTRAP} --hub sshleifer/tiny-gpt2` brings the real one"
            yield warn("weights", f"{said}: made up, random weights (seed {seed}); its text means nothing", remedy)
    except Unusable as error:
        yield fail("weights", str(error), damaged)
    try:
        yield ok("tokenizer", tokenizer_of(subject.model))
    except Unusable as error:
        yield fail("tokenizer", str(error), damaged)


def _corpus(subject: Subject) -> Finding:
    path, remedy = subject.corpus, f"{BOOTSTRAP} --only corpus"
    ours = path == subject.root / "artifacts" / "corpus" / "sample.txt"
    if path.is_file() and (not ours or sample_corpus.is_built(path)):
        return ok("corpus", f"{path}, {path.stat().st_size / 1e6:.1f} MB")
    said = f"{path} is {'damaged' if path.is_file() else 'not there'}"
    if subject.needs_corpus:
        return fail("corpus", said, remedy)
    return warn("corpus", f"{said}; benchmarks and the legacy demo read it", remedy)
