"""The main loop: every split of a job in turn, one process at a time.

What a split goes through is in `split_run.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megacontext.errors import ConfigError, StoreError
from nanochat.files import FileLock
from tools.dataset import arrow
from tools.dataset.metadata import Metadata, settings_print
from tools.dataset.models import Models, locate_teacher, locate_tokenizer
from tools.dataset.settings import Job
from tools.dataset.split_run import Note, Outcome, SplitRun


def prepare(job: Job, note: Note) -> dict[str, Outcome]:
    """Make every split of `job` that is not there yet, and metadata.yaml. note: told, in lines, what is going on.

    Raises MegaContextError: nothing to read, a missing model, a folder or file that cannot be written.
    """
    if any(split.output.suffix == ".arrow" for split in job.splits):
        arrow.require()
    models = _models(job, note)
    with _alone(job.metadata.parent):
        metadata = _metadata(job, models, note)
        return {split.name: SplitRun(job, split, models, metadata, note).run() for split in job.splits}


def _models(job: Job, note: Note) -> Models:
    tokenizer = locate_tokenizer(job.tokenizer, job.root)
    teacher = None if job.teacher is None else locate_teacher(job.teacher, job.root)
    made_up = dict.fromkeys(files.name for files in (tokenizer, teacher) if files and files.seeded)
    if made_up:
        note(f"WARNING: {' and '.join(made_up)}: a made-up model, random weights and a tokenizer of bytes")
    if teacher and job.config.teacher_trust_remote_code:
        note("teacher_trust_remote_code has no effect: code that lies beside a model is never run")
    return Models(tokenizer, teacher, job.config)


def _metadata(job: Job, models: Models, note: Note) -> Metadata:
    """What was made before, without what today's settings would not make."""
    metadata = Metadata(job.metadata, settings_print(job, models.tokenizer_files, models.teacher_files))
    if metadata.trouble:
        note(f"{metadata.trouble}; every split is made anew")
    asked = {split.name for split in job.splits}
    for name in metadata.outdated(tuple(job.config.splits)):
        if name not in asked:
            note(f"[{name}] was made with other settings, or is no split any more: metadata.yaml will not list it")
    return metadata


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the data set's lock. Raises StoreError if another process has it."""
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written ({error.strerror}); set MEGACONTEXT_DATA_ROOT to a folder that can"
        ) from error
    if not held:
        raise StoreError(f"process {lock.owner()} is preparing {folder}; wait for it, or end it")
    try:
        yield
    finally:
        lock.release()
