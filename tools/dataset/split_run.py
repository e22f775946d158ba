"""One split from its texts to its file: hash, read into tokens, write examples, publish.

Whatever interrupts it, the same command goes on from there. Memory is bounded: a piece of one document, a batch of
examples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from megacontext.errors import ConfigError, StoreError
from nanochat.files import atomic_write
from tools.dataset import arrow
from tools.dataset.documents import CHUNK, Source, find_files, hash_files, total_bytes
from tools.dataset.examples import Examples
from tools.dataset.metadata import FORMAT, Entry, Metadata, fingerprint, split_print
from tools.dataset.models import Models
from tools.dataset.progress import Bar
from tools.dataset.reading import read_documents
from tools.dataset.rows import RowFile, columns_of
from tools.dataset.settings import Job, SplitJob
from tools.dataset.spool import TokenSpool
from tools.dataset.work import Work
from tools.dataset.writing import begin_rows, write_rows

Note = Callable[[str], None]


class Outcome(NamedTuple):
    """What became of a split. state: "built", "rebuilt", "resumed" or "unchanged"."""

    state: str
    entry: Entry


class SplitRun:
    """Makes one split. note: told, in lines, what is going on."""

    def __init__(self, job: Job, split: SplitJob, models: Models, metadata: Metadata, note: Note) -> None:
        self.job, self.split, self.models, self.metadata = job, split, models, metadata
        self._note = note

    def run(self) -> Outcome:
        """Raises ConfigError for texts or settings that give no examples, StoreError if writing fails."""
        sources = self._sources()
        wanted = split_print(self.metadata.settings, self.split, sources)
        entry = self.metadata.current(self.split, wanted)
        if entry is not None and not self.job.force:
            Work.discard(self.split.output)
            return Outcome("unchanged", entry)
        before = self.split.output.exists()
        work = self._open(wanted, before)
        try:
            summary = work.summary or self._make(work, sources)
            self._publish(work, summary)
        except OSError as error:
            raise StoreError(
                f"{error.filename or work.folder}: writing failed ({error.strerror}); "
                "what is done is kept: mend that, and run the same command again"
            ) from error
        return Outcome("resumed" if work.found == "unfinished" else "rebuilt" if before else "built", summary)

    def _sources(self) -> list[Source]:
        files = find_files(self.split.base, self.split.source, self.split.max_files)
        with self._bar("hash", total_bytes(files), "bytes") as bar:
            return hash_files(files, bar)

    def _bar(self, what: str, total: int, unit: str, done: int = 0) -> Bar:
        return Bar(f"[{self.split.name}] {what}", total, unit, done)

    def _tell(self, text: str) -> None:
        self._note(f"[{self.split.name}] {text}")

    def _open(self, wanted: str, before: bool) -> Work:
        """The work folder; says what is thrown away, and why."""
        work = Work(self.split.output, wanted, anew=self.job.force)
        if work.summary and not (before or self._made(work).exists()):
            work = Work(self.split.output, wanted, anew=True)
        if work.found == "unfinished":
            return work
        changed = "as asked" if self.job.force else "texts or settings have changed"
        if work.found == "other":
            self._tell(f"an unfinished run is begun anew: {changed}")
        if before:
            unknown = "metadata.yaml does not say what it was made of"
            known = self.job.force or self.split.name in self.metadata.splits
            self._tell(f"{self.split.output} is made anew: {changed if known else unknown}")
        return work

    def _made(self, work: Work) -> Path:
        """The finished file, before it is published."""
        return work.folder / f"rows{self.split.output.suffix}"

    def _make(self, work: Work, sources: Sequence[Source]) -> Entry:
        """Everything up to the finished file."""
        with TokenSpool(work.folder) as spool:
            if work.found == "unfinished":
                self._tell(f"goes on: {len(spool.lengths)} documents read, {work.rows} examples written")
            self._read(spool, sources)
            examples = self._examples(work, spool)
            file = self._write(work, spool, examples)
            facts = {"documents": len(spool.lengths), "contexts": len(examples), "examples": len(examples)}
            return self._finish(work, file, {**facts, "tokens": spool.tokens}, sources)

    def _read(self, spool: TokenSpool, sources: Sequence[Source]) -> None:
        done = sum(source.size for source in sources[: len(spool.lengths)])
        block, limit = self.job.config.block_size, self.split.limit
        with self._bar("read", sum(source.size for source in sources), "bytes", done) as bar:
            read_documents(spool, sources, self.models.encode, block=block, limit=limit, advance=bar)

    def _examples(self, work: Work, spool: TokenSpool) -> Examples:
        config = self.job.config
        examples = Examples(spool.lengths, tokens=config.example_tokens, stride=config.stride)
        if len(examples):
            return examples
        work.remove()
        raise ConfigError(
            f"[{self.split.name}] no document is long enough for one example: context_tokens + horizon is "
            f"{config.example_tokens}, the longest of {len(spool.lengths)} documents has "
            f"{max(spool.lengths, default=0)} tokens in whole blocks; lower context_tokens or horizon, raise "
            "max_tokens, or name longer texts in source"
        )

    def _write(self, work: Work, spool: TokenSpool, examples: Examples) -> RowFile:
        config, teacher = self.job.config, self.models.teacher
        hidden = (teacher.width, teacher.dtype) if teacher else ()
        columns = columns_of(config.context_tokens, config.horizon, *hidden)
        file = RowFile(work.folder / "rows.safetensors", columns, len(examples), self._header(work))
        if work.rows and not file.exists():
            self._tell("the teacher's device or number format is another than before: examples are begun anew")
        begin_rows(work, file, copies=2 if self.split.output.suffix == ".arrow" else 1)
        with self._bar("write", len(examples), "examples", work.rows) as bar:
            write_rows(
                work,
                file,
                examples,
                spool.read,
                context=config.context_tokens,
                teacher=teacher,
                batch=config.teacher_batch_size,
                advance=bar,
            )
        return file

    def _header(self, work: Work) -> dict[str, str]:
        """What the file says of itself."""
        config, teacher = self.job.config, self.models.teacher
        found = {
            "format": f"megacontext-dataset-{FORMAT}",
            "dataset_name": config.dataset_name,
            "split": self.split.name,
            "block_size": str(config.block_size),
            "context_stride": str(config.stride),
            "tokenizer": self.job.tokenizer,
            "fingerprint": work.fingerprint,
        }
        if teacher is None:
            return found
        return {**found, "teacher_model": teacher.name, "teacher_dtype": teacher.dtype, "device": teacher.device}

    def _finish(self, work: Work, file: RowFile, facts: dict[str, Any], sources: Sequence[Source]) -> Entry:
        """Bring the rows into their format; from here on the split counts as finished."""
        made, teacher = self._made(work), self.models.teacher
        if made.suffix == ".arrow":
            self._convert(file, made)
        work.summary = {
            **facts,
            "teacher_hidden_size": teacher.width if teacher else 0,
            "teacher_dtype": teacher and (arrow.stored_dtype if made.suffix == ".arrow" else str)(teacher.dtype),
            "output_path": self.metadata.relative(self.split.output),
            "output_bytes": made.stat().st_size,
            "output_sha256": _sha256(made),
            "source_files": len(sources),
            "source_bytes": sum(source.size for source in sources),
            "source_sha256": fingerprint([source.sha256 for source in sources]),
            "settings": self.metadata.settings,
            "fingerprint": work.fingerprint,
        }
        work.save()
        return work.summary

    def _convert(self, file: RowFile, made: Path) -> None:
        teacher = self.models.teacher
        if teacher and arrow.stored_dtype(teacher.dtype) != teacher.dtype:
            self._tell(f"Arrow has no {teacher.dtype}: hidden states are written as float32, which loses nothing")
        with self._bar("to Arrow", file.rows, "examples") as bar, atomic_write(made) as out:
            arrow.write_arrow(out, file, bar)

    def _publish(self, work: Work, summary: Entry) -> None:
        work.publish(self._made(work))
        self.metadata.add(self.split, summary, tuple(self.job.config.splits))
        self.metadata.write(self.job, self.models.tokenizer_files, self.models.teacher_files)
        work.remove()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()
