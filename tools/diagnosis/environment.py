"""The machine's side: Python, packages, W&B, the hub. Standard library, so that it can say what is missing.

Secrets are looked for, never shown. Only `online` asks the network, with a few seconds of patience.
"""

from __future__ import annotations

import http.client
import re
import sys
import urllib.error
from collections.abc import Iterator, Mapping
from importlib import metadata

from megacontext.telemetry.run import ENABLE_WANDB, NO, YES
from megacontext.telemetry.wandb_key import has_kept_key
from megacontext.telemetry.wandb_sink import OLDEST
from tools.bootstrap import hub
from tools.bootstrap.fetch import Unreachable, http_failure, open_url
from tools.bootstrap.step import StepFailed
from tools.bootstrap.tiny_gpt2 import PATIENCE_S
from tools.diagnosis.finding import BOOTSTRAP, Finding, fail, ok, warn

PYTHONS = ((3, 10), (3, 14))
OPTIONAL = {  # package -> (extra that brings it, what it is for)
    "matplotlib": ("plots", "plots"),
    "wandb": ("wandb", "W&B"),
    "pyarrow": ("data", "data sets in Arrow files"),
    "transformers": ("dev", "comparing with other implementations"),
}
WANDB_MODES = ("online", "offline", "disabled", "dryrun", "shared")


def examine(environ: Mapping[str, str], *, online: bool) -> Iterator[Finding]:
    """All checks of this family."""
    yield python(sys.version_info[:3])
    yield packages()
    yield torch()
    yield optional_packages()
    yield wandb(environ)
    yield hub_online() if online else hub_settings()


def python(version: tuple[int, ...]) -> Finding:
    low, high = PYTHONS
    text = ".".join(map(str, version))
    if version[:2] < low:
        return fail("python", f"{text}; 3.{low[1]} or newer is needed", f"run `{BOOTSTRAP}` with a newer Python")
    if version[:2] > high:
        return warn("python", f"{text} is newer than what is tested (3.{high[1]})", "use 3.10 to 3.14 if it misbehaves")
    return ok("python", f"{text}, {sys.executable}")


def packages() -> Finding:
    """Whether what this project requires is installed, new enough."""
    remedy = f"`{BOOTSTRAP} --only env` installs them; then run with .venv's Python"
    try:
        required = [line for line in metadata.requires("megacontext") or () if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        return warn("packages", f"this project is not installed in {sys.prefix}: packages are not checked", remedy)
    lacking = [lack for line in required if (lack := _lacking(line))]
    if lacking:
        return fail("packages", f"missing or too old: {', '.join(lacking)}", remedy)
    return ok("packages", f"all {len(required)} that are needed")


def _lacking(requirement: str) -> str | None:
    """'torch>=2.11' -> what is wrong with it here, or None."""
    name, _, least = re.sub(r"[\s;].*", "", requirement).partition(">=")
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return requirement
    return f"{requirement} (found {found})" if _numbers(found) < _numbers(least) else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def torch() -> Finding:
    """Really imported: a build that does not fit the machine fails only then."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return fail("torch", f"cannot be imported: {error}", f"`{BOOTSTRAP} --only env` installs it")
    where = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return ok("torch", f"{torch.__version__}, {where}")


def optional_packages() -> Finding:
    there, absent = [], []
    for name, (extra, purpose) in OPTIONAL.items():
        try:
            there.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            absent.append(f"{name} (for {purpose}: pip install -e '.[{extra}]')")
    said = f"not installed: {', '.join(absent)}" if absent else "all installed"
    return ok("optional", "; ".join([*there, said]))


# --- W&B ---


def wandb(environ: Mapping[str, str]) -> Finding:
    """Whether a run would be sent to W&B, and could be."""
    value = environ.get(ENABLE_WANDB, "")
    if value.strip().lower() in NO:
        return ok("wandb", f"off: nothing is sent ({ENABLE_WANDB}=1 turns it on)")
    if value.strip().lower() not in YES:
        return warn("wandb", f"{ENABLE_WANDB}={value} is neither yes nor no: W&B stays off", f"set {ENABLE_WANDB}=1")
    try:
        version = metadata.version("wandb")
    except metadata.PackageNotFoundError:
        return warn("wandb", "on, and the package is not installed: nothing is recorded", "pip install -e '.[wandb]'")
    if _numbers(version) < OLDEST:
        least = ".".join(map(str, OLDEST))
        return warn(
            "wandb", f"on, and {version} is older than {least}: nothing is recorded", "pip install -e '.[wandb]'"
        )
    mode = environ.get("WANDB_MODE", "online")
    if mode not in WANDB_MODES:
        return warn("wandb", f"WANDB_MODE={mode} is none of {', '.join(WANDB_MODES)}", "set WANDB_MODE=offline")
    return _wandb_key(environ, version) if mode == "online" else ok("wandb", f"{version}, {mode}")


def _wandb_key(environ: Mapping[str, str], version: str) -> Finding:
    """A run without a key, or with a wrong one, goes on offline."""
    remedy = "set WANDB_API_KEY (`wandb login` keeps one), or WANDB_MODE=offline"
    key = environ.get("WANDB_API_KEY", "")
    if not key:
        if has_kept_key(environ, environ.get("WANDB_BASE_URL") or None):
            return ok("wandb", f"{version}, online, key of .netrc")
        return warn("wandb", f"{version}, online, and there is no key: runs go on offline", remedy)
    if len(key) < 40 or not key.isascii() or re.search(r"\s", key):
        return warn("wandb", f"WANDB_API_KEY does not look like a key ({len(key)} characters, 40 or more)", remedy)
    return ok("wandb", f"{version}, online, key set")


# --- the hub ---


def hub_settings() -> Finding:
    """What can be said of HF_TOKEN and HF_ENDPOINT without asking."""
    try:
        endpoint, token = hub.endpoint(), hub.token()
    except StepFailed as error:
        return fail("hub", str(error), "correct the variable, or unset it")
    return ok("hub", f"{endpoint}, HF_TOKEN {'is set' if token else 'is not set'}; --online asks it")


def hub_online() -> Finding:
    """Whether the hub answers, and takes the token."""
    settings = hub_settings()
    if settings.state != "ok":
        return settings
    url = f"{hub.endpoint()}/api/{'whoami-v2' if hub.token() else 'models?limit=1'}"
    try:
        hub.within(PATIENCE_S, lambda: open_url(url, hub.token(), timeout=PATIENCE_S).close())
    except urllib.error.HTTPError as error:
        remedy = "make a new token on the hub's site and set HF_TOKEN, or unset it"
        return fail("hub", str(http_failure(url, error, hub.token())), remedy)
    except (Unreachable, OSError, http.client.HTTPException, UnicodeError) as error:
        reason = getattr(error, "reason", error)
        remedy = f"check the network and proxy, or HF_ENDPOINT; `{BOOTSTRAP} --offline` does without"
        return warn("hub", f"{hub.endpoint()} cannot be reached: {reason}", remedy)
    return ok("hub", f"{hub.endpoint()} answers{', HF_TOKEN is accepted' if hub.token() else ''}")
