"""The legacy demo: a model continues a prompt, its history within a budget, and the log says how that went.

    python -m tools.decode_demo
    python -m tools.decode_demo --config configs/SampleText_TinyGPT2.yaml --prompt "Once upon a time"

Without --prompt, the beginning of the sample corpus is read (demo.corpus_tokens), then base_model.prompt. stdout
carries the continuation, after `MegaContext> `; notices and errors go to stderr, and every event to the log.

settings    flags > environment (MEGACONTEXT_MEMORY_BUDGET=448) > file > default
exit codes  0 ok, 1 failure, 2 usage or config, 3 assets missing, 5 budget impossible, 130 interrupted
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # `python tools/decode_demo.py` works from anywhere, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megacontext.evaluation.flags import INTERRUPTED, Parser

DEFAULT_CONFIG = "configs/SampleText_TinyGPT2.yaml"


def build_parser() -> Parser:
    parser = Parser("python -m tools.decode_demo", __doc__ or "")
    parser.add_argument(
        "--config", default=DEFAULT_CONFIG, metavar="FILE", help=f"YAML or JSON (default {DEFAULT_CONFIG})"
    )
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="TEXT", help="continue exactly this")
    prompt.add_argument("--prompt-file", type=Path, metavar="FILE", help="continue exactly what stands in this file")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="any setting")
    parser.add_argument("--log-dir", metavar="DIR", help="folder of the event logs")
    parser.add_argument("--debug", action="store_true", help="show tracebacks, and every event on stderr")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    try:
        flags = build_parser().parse(argv)
        from tools.legacy.demo import run

        return run(flags)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 1
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
