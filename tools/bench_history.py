"""How fast a conversation goes on after a long history: milliseconds a token, memory, positions.

    python -m tools.bench_history --config configs/megacontext_demo.yaml --history 4096,32768,131072 --json

Real text is read into one growing memory; at each length 128 tokens are decoded greedily on a copy of it, so that the
next length goes on from text alone. Prefill speed is that of the stretch since the length before. tick_ms: the memory's
own time between two passes, part of the token's. max_position: the largest position that any query or key was ever
rotated to. A plain cache is not run past the length that its model was trained on, unless --past-trained asks for its
speed there. Exit codes: as for the comparison (`python -m megacontext.evaluation.compare --help`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # `python tools/bench_history.py` works from anywhere, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megacontext.evaluation.comparison.rows import Row, RowFile, line, print_table
from megacontext.evaluation.flags import Parser, add_common, guarded, lengths, note, whole_number
from megacontext.evaluation.names import without_oracles

if TYPE_CHECKING:
    from megacontext.config import DemoConfig
    from megacontext.config_loader import LoadedConfig
    from megacontext.evaluation.corpus import Corpus

DEFAULT_CONFIG = "configs/megacontext_demo.yaml"
SAMPLE = "artifacts/corpus/sample.txt"
RUNNABLE = list(without_oracles())
SHOWN = {
    "history_tokens": "history",
    "decode_ms_p50": "ms/token",
    "decode_ms_p95": "p95",
    "tick_ms_p50": "tick ms",
    "prefill_tokens_per_s": "read/s",
    "resident_bytes": "bytes",
    "disk_bytes": "on disk",
    "slots": "slots",
    "max_position": "position",
    "note": "",
}


def build_parser() -> Parser:
    parser = Parser("python -m tools.bench_history", f"{__doc__ or ''}\ncaches  {', '.join(RUNNABLE)}\n")
    parser.add_argument(
        "--config", default=DEFAULT_CONFIG, metavar="FILE", help=f"YAML file (default {DEFAULT_CONFIG})"
    )
    parser.add_argument(
        "--history",
        type=lengths(1, "4096,32768"),
        default=[4096, 32768, 131072],
        metavar="N,N",
        help="lengths (4096,32768,131072)",
    )
    parser.add_argument("--cache", action="append", metavar="NAME", help="repeatable; default: the configuration's own")
    parser.add_argument("--tokens", type=whole_number(2), default=128, metavar="N", help="decoded at each length (128)")
    parser.add_argument("--past-trained", action="store_true", help="run the plain cache past the trained length")
    add_common(parser)
    return parser


def bench(
    flags: argparse.Namespace, settings: LoadedConfig[DemoConfig], names: list[str], corpus: Corpus
) -> Iterator[Row]:
    """One row for each cache and length; where the plain cache is not run, one that says why."""
    from megacontext.evaluation.model import about, open_model
    from megacontext.evaluation.speed.history import FIGURES, Bench

    loaded = open_model(settings.config.model)
    spec = loaded.model.spec
    common = {**about(loaded, corpus), "trained_positions": spec.max_position, "decoded": flags.tokens}
    for name in names:
        with TemporaryDirectory(prefix="megacontext-") as folder:
            one = Bench.open(name, loaded, corpus, settings.config, flags.tokens, Path(folder))
            one.report = note
            for history in flags.history:
                refusal = None if flags.past_trained else one.refusal(history)
                blank = {"history_tokens": history, "cache": name, **dict.fromkeys(FIGURES), "note": refusal}
                row = blank if refusal else one.row(history)
                note(f"{name}  {history:,}  {refusal or _told(row)}")
                yield {**row, **common, "config": settings.run}
            one.contender.close()


def measure(flags: argparse.Namespace) -> int:
    """Load, measure, print. Returns the exit code."""
    from megacontext.evaluation.corpus import load_corpus
    from megacontext.evaluation.settings import load_settings
    from megacontext.evaluation.tasks import check_name

    settings = load_settings(flags.config, flags.set)
    names = [check_name("cache", name, RUNNABLE) for name in flags.cache or [settings.config.memory.cache]]
    corpus = load_corpus(settings.root / SAMPLE, flags.text)
    file = RowFile(flags.out)
    rows = []
    for row in bench(flags, settings, list(dict.fromkeys(names)), corpus):
        rows.append(row)
        file.add(row)
        if flags.json:
            sys.stdout.write(line(row))
            sys.stdout.flush()
    if not flags.json:
        print_table(rows, SHOWN, title=f"{rows[0]['model']}, {rows[0]['dtype']}")
    _ratios(rows)
    return 0


def _told(row: Row) -> str:
    return f"{row['decode_ms_p50']:.1f} ms a token, read at {row['prefill_tokens_per_s']:.0f} tokens/s"


def _ratios(rows: Sequence[Row]) -> None:
    """p50 at the longest history over p50 at the shortest, for each cache."""
    for name in dict.fromkeys(row["cache"] for row in rows):
        mine = [row for row in rows if row["cache"] == name and row["decode_ms_p50"]]
        if len(mine) > 1:
            ratio = mine[-1]["decode_ms_p50"] / mine[0]["decode_ms_p50"]
            ends = [f"p50 at {row['history_tokens']:,}" for row in (mine[-1], mine[0])]
            note(f"{name}  {' / '.join(ends)} = {ratio:.3f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return guarded(measure, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
