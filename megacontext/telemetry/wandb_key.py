"""Whether `wandb login` has kept a key for a server, in .netrc. Standard library; the key itself is never given out.

W&B's own cloud has had two names: a key that was kept under one of them counts for the other, as it does in wandb.
"""

from __future__ import annotations

import netrc
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

CLOUD = ("api.forge.coreweave.com", "api.wandb.ai")  # since wandb 0.31, and before


def has_kept_key(environ: Mapping[str, str], server: str | None = None) -> bool:
    """environ: NETRC, HOME and USERPROFILE say where .netrc is. server: its URL; None for W&B's cloud."""
    host = CLOUD[0] if server is None else urlsplit(server).netloc
    hosts = CLOUD if host in CLOUD else (host,)
    return any(_has_entry(place, host) for place in _places(environ) for host in hosts)


def _places(environ: Mapping[str, str]) -> Iterator[Path]:
    if environ.get("NETRC"):
        yield Path(environ["NETRC"]).expanduser()
        return
    home = Path(environ.get("HOME") or environ.get("USERPROFILE") or Path.home())
    yield from (home / ".netrc", home / "_netrc")


def _has_entry(place: Path, host: str) -> bool:
    try:
        return netrc.netrc(place).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return False
