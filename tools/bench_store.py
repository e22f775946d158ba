"""What a session on disk costs, however long its history is: opening, first token, bytes, pages.

    python -m tools.bench_store --json --history 10000,100000,1000000 --model toy

For each length a session is filled, then processes of their own go on with it, as after a crash: nothing of it is in
the system's cache, nothing has been computed. Rows, by `figure`:

    restart    open_ms: session, log, memory brought back; first_token_ms: of the first turn; restart_ms: both.
               warm_first_token_ms: of later turns of the same process (median); score_ms: the scorers' part of it, the
               one that looks at all of history. restart_cpu_ms, warm_cpu_ms: the processor's part, which says more on
               a busy machine. Reach: restart_ms at most 2x warm, and flat in history within 20 %.
               Python, torch and weights are loaded before, in process_ms and load_ms.
    resident   bytes in memory after opening, by name; others: what the system counts beyond. per_token: bytes a token
               beyond pages and view, from one length to the next. Reach: under 16
    append     what keeping costs while an answer runs: log, pages, snapshots on the decode path; thread_share: CPU of
               the thread that writes. Reach: under 2 % of decode time
    page_in    milliseconds until a page is there: from memory, from disk, computed again
    disk       bytes a token by file, for each format of pages (page_dtype: pages.dtype)

Only the beginning (--read) and the newest tokens are read by the model. History between them is made up: real text in
the log, real-shaped pages, means and index entries, written by the code that always writes them (tools/storing/
filling.py); made_up_tokens says how much of it. Times are those of the quietest of some rounds, in each of which all
lengths have their turn. Exit codes: as for the comparison (`python -m megacontext.evaluation.compare --help`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # `python tools/bench_store.py` works from anywhere, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megacontext.evaluation.comparison.rows import Row, RowFile, line
from megacontext.evaluation.flags import Parser, guarded, lengths, note, whole_number
from tools.storing.figures import rows_of, table_lines, verdicts
from tools.storing.place import Place

if TYPE_CHECKING:
    from megacontext.models.base import LoadedModel

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "artifacts" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
SAMPLE = ROOT / "artifacts" / "corpus" / "sample.txt"
READ = {"toy": 4096, "demo": 10_000}  # tokens that the model reads itself
PAGES = ("model", "int8", "int4")
LEAST = 2048


def build_parser() -> Parser:
    parser = Parser("python -m tools.bench_store", __doc__ or "")
    parser.add_argument(
        "--history",
        type=lengths(1, "4096,32768"),
        default=[10_000, 100_000, 1_000_000],
        metavar="N,N",
        help="10000,100000,1000000",
    )
    parser.add_argument("--model", default="toy", metavar="NAME", help="toy, demo, or a model's path (default toy)")
    parser.add_argument("--pages", default="model", choices=PAGES, help="format of pages on disk (default model)")
    parser.add_argument("--read", type=whole_number(LEAST), metavar="N", help="tokens that the model reads itself")
    parser.add_argument("--ram-bytes", type=whole_number(1), default=64 << 20, metavar="N", help="pages.ram_bytes")
    parser.add_argument("--rounds", type=whole_number(1), default=3, metavar="N", help="restarts at each length (3)")
    parser.add_argument("--text", action="append", default=[], type=Path, metavar="FILE", help="instead of the sample")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep the sessions here (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="one JSON row a line on stdout; the table goes to stderr")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep finished rows here, one JSON row a line")
    return parser


def measure(flags: argparse.Namespace) -> int:
    """Fill, restart, print. Returns the exit code."""
    file, rows = RowFile(flags.out), []
    with TemporaryDirectory() if flags.folder is None else nullcontext(flags.folder) as folder:
        for row in bench(flags, Path(folder)):
            rows.append(row)
            file.add(row)
            if flags.json:
                sys.stdout.write(line(row))
                sys.stdout.flush()
    told = [*table_lines(rows), *verdicts(rows)]
    if flags.json:
        note("\n".join(told))
    else:
        print("\n".join(told))
    return 0


def bench(flags: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """The rows of each length, and of each format of pages at the first one."""
    from tools.storing.filling import with_pages_as
    from tools.storing.place import load

    place = _place(flags, folder)
    loaded = load(place)
    begun = _begin(flags, place, loaded)
    places = {history: replace(place, name=f"history-{history}") for history in flags.history}
    made_up = {history: _fill(flags, here, begun, loaded, history) for history, here in places.items()}
    rounds = [{history: _restart(here) for history, here in places.items()} for _ in range(flags.rounds)]
    shorter: dict[str, Any] | None = None
    for history, here in places.items():
        common = {"model": flags.model, "history_tokens": history, "page_dtype": flags.pages}
        common["made_up_tokens"] = made_up[history]
        found = [one[history] for one in rounds]
        yield from ({**common, **row} for row in rows_of(here, found, shorter))
        shorter = found[0]
        if history == flags.history[0]:
            for dtype in [name for name in PAGES if name != flags.pages]:
                other = with_pages_as(here, loaded, dtype)
                rows = [row for row in rows_of(other, [_restart(other)], None) if row["figure"] in ("disk", "page_in")]
                yield from ({**common, "page_dtype": dtype, **row} for row in rows)


def _place(flags: argparse.Namespace, folder: Path) -> Place:
    """Where sessions lie; the toy is made there. Raises MissingAsset."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {"toy": folder / "toy-model", "demo": DEMO}.get(flags.model, Path(flags.model))
    if flags.model == "toy" and not model.exists():
        from tools.fault_programme.toy_model import write_model

        write_model(model)
    return Place(str(folder), "", str(model), dtype=flags.pages, ram_bytes=flags.ram_bytes)


def _begin(flags: argparse.Namespace, place: Place, loaded: LoadedModel) -> Place:
    """The session that all others go on from."""
    from tools.storing.filling import begin, text_ids

    read = flags.read or READ.get(flags.model, READ["demo"])
    begun = replace(place, name=f"read-{read}")
    begin(begun, loaded, text_ids(loaded, flags.text, SAMPLE), read, note)
    return begun


def _fill(flags: argparse.Namespace, place: Place, begun: Place, loaded: LoadedModel, history: int) -> int:
    """Returns how many tokens are made up."""
    from tools.storing.filling import fill, text_ids

    started = time.monotonic()
    made_up = fill(place, begun, loaded, text_ids(loaded, flags.text, SAMPLE), history, note)
    note(f"{history:,} tokens filled in {time.monotonic() - started:.0f} s, {made_up:,} of them made up")
    return made_up


def _restart(place: Place) -> dict[str, Any]:
    """A process that goes on with the session; what it found. Raises MegaContextError if it fails."""
    from megacontext.errors import MegaContextError
    from tools.storing.disk import drop_from_cache

    drop_from_cache(place.folder)
    command = [sys.executable, "-m", "tools.storing.restart", place.to_json(), repr(time.time())]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE)
    if done.returncode:
        raise MegaContextError(f"going on with {place.folder} failed, exit code {done.returncode}: see above")
    return json.loads(done.stdout)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return guarded(measure, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
