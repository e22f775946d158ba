"""A project folder with a toy in place of the model: configs, a small sample corpus, nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from toy_evaluation import ToyText, words

from megacontext.models.base import LoadedModel
from megacontext.testing.toy import toy_model

DEMO = """\
model:
  path: nowhere.gguf
memory:
  budget: 96
  block: 8
  recent_tokens: 32
  far_blocks: 4
  read_chunk: 8
  reread_tokens: 16
"""
COMPARE = """\
demo: configs/demo.yaml
corpus: corpus/sample.txt
caches: [recency, full, oracle]
tasks:
  - {name: late_recall, seeds: 2, tokens: 900}
  - {name: plain_text, tokens: 1100}
"""


def write_corpus(path: Path, documents: int = 3) -> Path:
    """A sample corpus with its manifest beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body, entries = b"", []
    for number in range(documents):
        data = words(400, number).encode()
        entries.append({"title": f"text {number}", "start": len(body), "end": len(body) + len(data)})
        body += data + b"\n\n\n"
    path.write_bytes(body)
    manifest = {
        "file": path.name,
        "sha256": hashlib.sha256(body).hexdigest(),
        "bytes": len(body),
        "python": "3.11.0",
        "documents": entries,
        "format": 1,
    }
    path.with_suffix(".json").write_text(json.dumps(manifest), encoding="utf-8")
    return path


def write_home(path: Path, monkeypatch: pytest.MonkeyPatch, *, trained: int = 512) -> Path:
    """Make `path` the current folder, with a toy that was trained on `trained` positions."""
    from megacontext.evaluation import model as opening

    (path / "configs" / "compare").mkdir(parents=True)
    (path / "configs" / "demo.yaml").write_text(DEMO, encoding="utf-8")
    (path / "configs" / "compare" / "quick.yaml").write_text(COMPARE, encoding="utf-8")
    write_corpus(path / "corpus" / "sample.txt")
    write_corpus(path / "artifacts" / "corpus" / "sample.txt")
    model = toy_model(window_pattern="L", n_layer=1, sequence_len=trained)

    def load(config: Any) -> LoadedModel:
        name = Path(getattr(config, "path", "nowhere")).stem
        return LoadedModel(model, ToyText(), "toy" if name == "nowhere" else name)

    monkeypatch.setattr(opening, "load_model", load)
    monkeypatch.chdir(path)
    return path
