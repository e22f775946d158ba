"""Writes the documents that are made from code: the metric table and the event log's schema.

python -m tools.generate_docs            writes those that differ
python -m tools.generate_docs --check    writes nothing; exit code 1 if one differs from the code
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __package__ in (None, ""):  # `python tools/generate_docs.py` works from anywhere, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROOT = Path(__file__).resolve().parent.parent

METRICS_INTRO = """\
# Metrics

This page is made from `megacontext/telemetry/metrics.py` by `python -m tools.generate_docs`; change the table there.

Events, the chat's meter line and `/stats`, evaluation rows and W&B charts use these names and no others. A value that
was not computed is absent, never zero. Between what is healthy and what is worth a look lies what is tolerable.

`summed up as` says what several ticks come to, in a `tick` event that sums up to 32 of them and in the `turn` event:
`sum` adds, `mean` is over the ticks, `sample` over the few ticks that measured it, `last` is the newest known. The
parts of `latency_ms` are means, so that they add up to `total` in every event; `latency_p95_ms`, in sums alone, is the
95th percentile of each part by itself. What carries which figure: `docs/event_log.schema.json`.

"""


def metrics_page() -> str:
    """docs/metrics.md."""
    from megacontext.telemetry.metrics import as_markdown

    return METRICS_INTRO + as_markdown()


def schema_file() -> str:
    """docs/event_log.schema.json."""
    from megacontext.telemetry.schema import json_schema

    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


DOCUMENTS: dict[str, Callable[[], str]] = {
    "docs/metrics.md": metrics_page,
    "docs/event_log.schema.json": schema_file,
}


def stale(root: Path) -> dict[str, str]:
    """The documents that differ from the code: path below root -> the text it should have."""
    wanted = {name: make() for name, make in DOCUMENTS.items()}
    return {name: text for name, text in wanted.items() if _read(root / name) != text}


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Returns 1 if --check found a document that differs, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a document differs from the code")
    check = parser.parse_args(argv).check
    found = stale(root)
    for name, text in found.items():
        if check:
            print(f"{name} is not what the code says: `python -m tools.generate_docs` writes it", file=sys.stderr)
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"{name}: written")
    if not found:
        print(f"{', '.join(DOCUMENTS)}: as the code says")
    return int(check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
