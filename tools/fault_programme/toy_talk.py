"""A conversation with a toy model in this process: session, memory, files, as the chat opens them. Knows no faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from tools.fault_programme import toy_model

if TYPE_CHECKING:
    from torch import Tensor

    from megacontext.cache import ContextCache
    from megacontext.conversation import Conversation, Resumed
    from megacontext.models.base import LoadedModel
    from megacontext.session import Session
    from megacontext.telemetry.sinks import Sink
    from megacontext.tree.memory_files import MemoryFiles

BLOCK = 8
MEMORY: dict[str, Any] = {
    "budget": 160,
    "block": BLOCK,
    "recent_tokens": 40,
    "prompt_recent_tokens": 64,
    "read_chunk": 8,
    "far_blocks": 8,
    "prompt_blocks": 3,
    "reread_tokens": 16,
    "position_slack": 32,
    "expand_above": 0.05,
}
GIST_SLOTS = (1, 0, 0, 0)
RAM_BYTES = 20_000  # of pages: a handful
MODELS = ("llama", "no windows", "windows", "bfloat16")
WORDS = [
    *("the", "a", "cat", "dog", "house", "river", "runs", "sleeps", "red", "blue", "under", "over", "and", "then"),
    *("we", "saw", "it", "again"),
]


def load(kind: str, folder: Path) -> LoadedModel:
    """A model of one of MODELS, its text side that of the toy model, which is made in `folder`."""
    import torch

    from megacontext.config import ModelConfig
    from megacontext.models import load_model
    from megacontext.models.base import LoadedModel
    from megacontext.testing.toy import toy_model as generation

    if not folder.exists():
        toy_model.write_model(folder)
    torch.set_num_threads(1)
    dtype: Literal["bfloat16", "float32"] = "bfloat16" if kind == "bfloat16" else "float32"
    llama = load_model(ModelConfig(path=str(folder), dtype=dtype, device="cpu"))
    sizes: dict[str, Any] = {"vocab_size": llama.text.vocab_size, "n_layer": 2, "n_embd": 32, "sequence_len": 512}
    if kind == "no windows":
        return LoadedModel(generation("G4", window_pattern="L", **sizes), llama.text, kind)
    if kind == "windows":
        return LoadedModel(generation("G2", window_pattern="SL", **sizes | {"sequence_len": 256}), llama.text, kind)
    return llama


def sentence(rng: Random) -> str:
    """Something to say: words that come again and again."""
    return " ".join(rng.choice(WORDS) for _ in range(rng.choice((2, 6, 15)))).capitalize() + "."


@dataclass(frozen=True)
class ToyTalk:
    """An open conversation. resumed: what taking up the session came to."""

    session: Session
    files: MemoryFiles
    cache: ContextCache
    conversation: Conversation
    resumed: Resumed

    def say(self, text: str) -> str:
        return "".join(self.conversation.say(text))

    def close(self) -> None:
        """Files first, as the chat does."""
        try:
            self.files.close()
        finally:
            self.session.close()


def open_talk(
    loaded: LoadedModel,
    root: Path,
    sampler: Callable[[Tensor], int],
    *,
    max_tokens: int = 24,
    sink: Sink | None = None,
    gists: bool = False,
) -> ToyTalk:
    """Begin the session `talk` below `root`, or take it up. gists: blocks out of view have one."""
    from megacontext.cache import ContextCache
    from megacontext.config import ChatConfig, MemoryConfig, PagesConfig
    from megacontext.conversation import Conversation
    from megacontext.session import Session
    from megacontext.tree.memory_files import MemoryFiles

    text, spec = loaded.text, loaded.model.spec
    session = Session.open(root, "talk", vocab=text.vocab_size, fingerprint=text.fingerprint)
    files = MemoryFiles(session.folder, spec, BLOCK, PagesConfig(ram_bytes=RAM_BYTES), log=session.log)
    memory = MemoryConfig(**MEMORY | ({"gist_slots": GIST_SLOTS} if gists else {}))
    cache = ContextCache(spec, memory, sink=sink, files=files)
    config = ChatConfig(max_tokens=max_tokens)
    conversation = Conversation(loaded, cache, session, config, sampler=sampler, sink=sink, files=files)
    return ToyTalk(session, files, cache, conversation, conversation.resume())


def feed(loaded: LoadedModel, cache: ContextCache, token: int) -> Tensor:
    """One more token, as an answer feeds it -> logits (1, V)."""
    from nanochat.engine import prefill

    return prefill(loaded.model, cache, [token], answer=False)
