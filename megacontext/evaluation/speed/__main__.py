"""How fast each memory is, all in one run: tokens a second, time to the first token, memory.

    python -m megacontext.evaluation.speed --json
    python -m megacontext.evaluation.speed --cache full --cache megacontext --history 1024,16384

Real text is read into every memory; at each length they take turns at reading, decoding greedily (text that flows, so
MegaContext refocuses at its own pace) and answering a prompt of 64 tokens. Figures are medians. Beside the memories:

  transformers        its `generate` on the same weights and number format, once its logits are found equal to ours
  plain@slots         a plain cache that always holds as many rows as MegaContext shows: its overhead is over this one
  megacontext@answer  decoding as in a chat: the view that the end of a prompt chose is held; plain@answer beside it
  weights             one row through all matrices and nothing else: the limit

prefill: reading the text just before that length, in the memory's own passes. ttft: from a prompt upon a history that
is in memory to the first token. Where positions go beyond the trained length, plain caches run for their speed alone,
and the row says so. A history past --read-all is filled into plain caches from real rows, not read; the row says so.
--clock cpu counts the processor's time on one thread instead: on a busy machine the only figures that stand still.
Ratios are taken round by round; quartiles show how quiet the machine was, `load` how busy.
Exit codes: as for the comparison (`python -m megacontext.evaluation.compare --help`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING

from megacontext.evaluation.comparison.rows import Row, RowFile, line, print_table
from megacontext.evaluation.flags import Parser, add_common, guarded, lengths, note, whole_number
from megacontext.evaluation.names import FULL, MEGACONTEXT
from megacontext.evaluation.speed.names import ANSWER, DEFAULT, RUNNABLE, SAME, SAME_ANSWER, THEIRS

if TYPE_CHECKING:
    from megacontext.config import DemoConfig
    from megacontext.config_loader import LoadedConfig
    from megacontext.evaluation.corpus import Corpus
    from megacontext.evaluation.speed.field import Compared, Field, Manner

DEFAULT_CONFIG = "configs/megacontext_demo.yaml"
SAMPLE_TEXT = "artifacts/corpus/sample.txt"
SHOWN = {
    "history_tokens": "history",
    "decode_tokens_per_s": "tokens/s",
    "decode_ms_p50": "ms/token",
    "decode_ms_p95": "p95",
    "prefill_tokens_per_s": "read/s",
    "ttft_ms": "first ms",
    "resident_bytes": "bytes",
    "slots": "slots",
    "note": "",
}


def build_parser() -> Parser:
    parser = Parser("python -m megacontext.evaluation.speed", f"{__doc__ or ''}\ncaches  {', '.join(RUNNABLE)}\n")
    parser.add_argument("--config", default=DEFAULT_CONFIG, metavar="FILE", help=f"({DEFAULT_CONFIG})")
    parser.add_argument(
        "--history",
        type=lengths(16, "1024,16384"),
        default=[1024, 4096, 16384],
        metavar="N,N",
        help="lengths (1024,4096,16384)",
    )
    parser.add_argument("--cache", action="append", metavar="NAME", help="repeatable; default: plain, ours, baselines")
    parser.add_argument("--rounds", type=whole_number(2), default=8, metavar="N", help="of decoding (8)")
    parser.add_argument("--tokens", type=whole_number(2), default=14, metavar="N", help="of one round (14)")
    parser.add_argument("--prompt", type=whole_number(2), default=64, metavar="N", help="tokens of a prompt (64)")
    parser.add_argument("--read-all", type=whole_number(0), default=16384, metavar="N", help="see above (16384)")
    parser.add_argument(
        "--patience",
        type=whole_number(1),
        default=300,
        metavar="S",
        help="seconds of one cache at one length (300)",
    )
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="what counts as time: see above (wall)"
    )
    add_common(parser)
    return parser


def compared() -> list[Compared]:
    """The ratios that are asked for, milliseconds over milliseconds."""
    from megacontext.evaluation.speed.field import Compared

    return [
        Compared("megacontext's time over a plain cache's of the same slots", MEGACONTEXT, SAME, 1.05, most=True),
        Compared("megacontext's time in an answer over a plain cache's", ANSWER, SAME_ANSWER, 1.05, most=True),
        Compared("the plain cache's speed over transformers'", THEIRS, FULL, 1.6, at=1024),
        Compared("megacontext's speed over transformers'", THEIRS, MEGACONTEXT, 12.0, at=16384),
    ]


def bench(
    flags: argparse.Namespace, settings: LoadedConfig[DemoConfig], names: Sequence[str], corpus: Corpus
) -> Iterator[Row]:
    """Length by length: the limit, a row for each contender, the ratios."""
    from megacontext.evaluation.model import about, open_model
    from megacontext.evaluation.speed.bare import BarePass
    from megacontext.evaluation.speed.field import Field
    from megacontext.evaluation.speed.opening import Opening
    from megacontext.evaluation.tasks.base import Library

    model = settings.config.model
    loaded = open_model(model.model_copy(update={"threads": 1}) if flags.clock == "cpu" else model)
    library = Library(loaded.text, corpus.documents)
    sample = list(islice(library.stream(), max(settings.config.memory.budget, 512)))
    trained = loaded.model.spec.max_position
    common = {**about(loaded, corpus), "trained_positions": trained, "clock": flags.clock, "config": settings.run}
    with ExitStack() as stack:
        contenders = list(Opening(loaded, settings.config, sample, stack).all(names))
        field = Field(contenders, library.stream(), _manner(flags, trained), BarePass(loaded.model), note)
        for history in flags.history:
            yield from ({**row, **common} for row in _at(field, history))


def _manner(flags: argparse.Namespace, trained: int) -> Manner:
    from megacontext.evaluation.speed.field import Manner

    clock = time.process_time if flags.clock == "cpu" else time.perf_counter
    return Manner(flags.rounds, flags.tokens, flags.prompt, flags.read_all, flags.patience, trained, clock)


def _at(field: Field, history: int) -> Iterator[Row]:
    field.measure(history)
    yield from field.rows(history)
    for row in field.ratios(history, compared()):
        reach = "" if row["reach"] is None else f"; reach {row['reach']}: {'yes' if row['reached'] else 'no'}"
        quartiles = " to ".join(f"{value:.3f}" for value in row["quartiles"])
        note(f"{history:,}  {row['ratio']}: {row['value']:.3f} ({quartiles}; of sums {row['of_sums']:.3f}){reach}")
        yield row


def measure(flags: argparse.Namespace) -> int:
    """Load, measure, print. Returns the exit code."""
    from megacontext.evaluation.corpus import load_corpus
    from megacontext.evaluation.settings import load_settings
    from megacontext.evaluation.tasks import check_name

    settings = load_settings(flags.config, flags.set)
    names = [check_name("cache", name, list(RUNNABLE)) for name in flags.cache or DEFAULT]
    corpus = load_corpus(settings.root / SAMPLE_TEXT, flags.text)
    file = RowFile(flags.out)
    rows = []
    for row in bench(flags, settings, list(dict.fromkeys(names)), corpus):
        rows.append(row)
        file.add(row)
        if flags.json:
            sys.stdout.write(line(row))
            sys.stdout.flush()
    if not flags.json:
        shown = [row for row in rows if "cache" in row]
        print_table(shown, SHOWN, title=f"{shown[0]['model']}, {shown[0]['dtype']}, {shown[0]['threads']} threads")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return guarded(measure, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
