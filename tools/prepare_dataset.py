"""Makes training examples of texts: blocks of tokens, a context and its future each, with a teacher's hidden states.

    python -m tools.prepare_dataset --config configs/SampleText_TinyGPT2.yaml [--split train] [--force] [--json]

Reads the `dataset:` section of a configuration file, or a file that is that section. A split's output_path says the
format: .arrow (needs pyarrow, the extra `data`) or .safetensors. metadata.yaml beside it says what was made of what.
An interrupted run goes on where it stopped; what is there and would come out the same is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # `python tools/prepare_dataset.py` works from anywhere, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megacontext.evaluation.flags import Parser, guarded, note

if TYPE_CHECKING:
    from tools.dataset.settings import Job
    from tools.dataset.split_run import Outcome

EPILOG = """
settings     flags > environment (MEGACONTEXT_DATASET_BLOCK_SIZE=16) > file > default
environment  MEGACONTEXT_DATA_ROOT           folder for outputs that are relative paths, and for metadata.yaml
             MEGACONTEXT_FORCE_DATA_REBUILD  1: as --force
exit codes   0 ok, 1 failure, 2 usage or config, 3 texts, model or pyarrow missing, 4 locked or not written,
             130 interrupted
"""


def build_parser() -> Parser:
    parser = Parser("python -m tools.prepare_dataset", f"{__doc__ or ''}{EPILOG}")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="YAML file")
    parser.add_argument("--split", action="append", default=[], metavar="NAME", help="make this split only; repeatable")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="dataset.KEY=VALUE",
        help="any setting; also dataset.splits.NAME.KEY",
    )
    parser.add_argument("--force", action="store_true", help="make everything anew")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, instead of lines")
    return parser


def work(flags: argparse.Namespace) -> int:
    from tools.dataset.prepare import prepare
    from tools.dataset.settings import read_job

    job = read_job(flags.config, os.environ, assignments=flags.set, only=flags.split, force=flags.force)
    try:
        outcomes = prepare(job, note)
    except KeyboardInterrupt:
        note("what is done is kept: the same command goes on from here")
        raise
    if flags.json:
        print(json.dumps(summary(job, outcomes), ensure_ascii=False))
        return 0
    for name, outcome in outcomes.items():
        print(line(name, outcome))
    print(f"{'Wrote metadata to' if built(outcomes) else 'Nothing to do:'} {job.metadata}")
    return 0


def built(outcomes: Mapping[str, Outcome]) -> bool:
    """Whether anything was made."""
    return any(outcome.state != "unchanged" for outcome in outcomes.values())


def line(name: str, outcome: Outcome) -> str:
    """A split in one line."""
    found = outcome.entry
    teacher = f"teacher dim={found['teacher_hidden_size']} dtype={found['teacher_dtype'] or 'none'}"
    counts = f"{found['documents']} docs, {found['contexts']} contexts → {found['examples']} examples"
    return f"[{name}] {counts} ({teacher}){'' if outcome.state == 'built' else f', {outcome.state}'}"


def summary(job: Job, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """The run as plain values."""
    kinds = {outcome.entry["teacher_dtype"] for outcome in outcomes.values()}
    return {
        "config_path": str(job.file),
        "metadata_path": str(job.metadata),
        "teacher_dtype": kinds.pop() if len(kinds) == 1 else "mixed",
        "splits": {name: {"state": outcome.state, **outcome.entry} for name, outcome in outcomes.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return guarded(work, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
