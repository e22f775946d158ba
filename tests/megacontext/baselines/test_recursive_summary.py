"""Recursive summary behind the hook: what is asked of the model, and what stands in the prompt."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from driving import assert_no_trace

from megacontext.baselines.limits import Limits
from megacontext.baselines.recursive_summary import ASK, RecursiveSummary, RecursiveSummaryConfig
from megacontext.errors import BudgetError, ConfigError
from megacontext.testing.cache_conformance import KVCacheTests
from megacontext.testing.toy import cached_logits, full_logits, ids, run, toy_model, toy_tokens
from nanochat.kv_cache import DenseCache


class ByteChat:
    """Bytes; a turn begins with 258, ends with 257, and 259 asks for a reply."""

    stop_ids = frozenset({257})

    @property
    def chat(self) -> ByteChat:
        return self

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token < 128).decode()

    def user(self, text: str, *, reply: bool = True) -> list[int]:
        return [258, *self.encode(text), 257, *([259] if reply else [])]

    def close(self) -> list[int]:
        return [257]


class ByteText(ByteChat):
    """A base model's: turns are paragraphs."""

    def user(self, text: str, *, reply: bool = True) -> list[int]:
        return self.encode(f"{text}\n\n")


class TestRecursiveSummary(KVCacheTests):
    bounded = True
    budget = 256
    history = 300

    def make_cache(self, spec, budget_slots):
        return RecursiveSummary(spec, Limits(budget_slots, chunk=16, spare=4), text=ByteChat())


@pytest.fixture(scope="module")
def model():
    return toy_model("G4", n_layer=2, sequence_len=512, window_pattern="SL")


def letters(count: int, seed: int = 0) -> list[int]:
    return [97 + token % 26 for token in toy_tokens(count, seed=seed)]


def filled(model, text=None, *, slots: int = 256, tokens: int = 260, **config) -> tuple[RecursiveSummary, list]:
    """A memory just after its first summaries, and the requests that it made."""
    cache = RecursiveSummary(model.spec, Limits(slots, chunk=16), RecursiveSummaryConfig(**config), text or ByteChat())
    requests: list[list[int]] = []
    read = cache.read
    cache.read = lambda m, request: (requests.append(request.tolist()), read(m, request))[1]  # type: ignore[method-assign]
    cached_logits(model, cache, letters(tokens), [16] * (tokens // 16))
    return cache, requests


def test_the_prompt_is_the_summary_and_the_newest_text(model) -> None:
    cache, requests = filled(model, tokens=272)
    text, history = ByteChat(), letters(272)
    prompt = [*text.encode("Summary so far: "), *cache.summary.tolist(), *text.encode("\n\n"), *history[cache.recent :]]
    assert 0 < cache.recent < 272
    assert prompt[: len(requests[-1])] == requests[-1]
    last = cached_logits(model, cache, [97])[-1]
    torch.testing.assert_close(last, full_logits(model, [*prompt, 97])[-1], atol=1e-4, rtol=0)


def test_the_oldest_half_and_the_former_summary_are_summarised_in_the_chat_format(model) -> None:
    _, requests = filled(model, tokens=600, summary=8)
    first, second = requests[0], [request for request in requests if request[0] == 258][1]
    asked = f"\n\n{ASK}".encode()
    oldest = len(first) - len(asked) - 3
    assert first == [258, *letters(600)[:oldest], *asked, 257, 259]
    assert bytes(second[1:17]) == b"Summary so far: "
    assert second[-len(asked) - 2 :] == [*asked, 257, 259]


def test_a_model_without_a_chat_format_is_given_the_text_and_a_heading(model) -> None:
    _, requests = filled(model, ByteText())
    assert bytes(requests[0]).endswith(b"\n\nSummary:")
    assert requests[0][:20] == letters(20)


def test_the_summary_is_the_likeliest_answer_up_to_its_end(model) -> None:
    cache, requests = filled(model, summary=12)
    dense, expected = DenseCache(model.spec), list[int]()
    logits = cached_logits(model, dense, requests[0], [len(requests[0])])[-1]
    while len(expected) < 12 and int(logits.argmax()) not in (257,):
        expected.append(int(logits.argmax()))
        logits = run(model, dense, ids(model, expected[-1:]))[0, -1]
    first = RecursiveSummary(model.spec, Limits(256, chunk=16), RecursiveSummaryConfig(summary=12), ByteChat())
    assert first._written(model, torch.tensor(requests[0]).int().numpy()).tolist() == expected
    assert len(cache.summary) <= 12


def test_it_is_the_same_every_time(model) -> None:
    one, other = (filled(model, tokens=500)[0] for _ in range(2))
    assert one.summary.tolist() == other.summary.tolist()
    assert one.recent == other.recent


def test_everything_that_is_computed_for_a_summary_is_counted(model) -> None:
    cache, requests = filled(model, summary=8)
    weights = sum(p.numel() for p in model.parameters()) - 265 * 64
    assert cache.selection_flops >= 2 * weights * sum(map(len, requests))


def test_under_a_budget_a_fork_and_a_rollback_leave_no_trace(model) -> None:
    tail, other = letters(100, 1), letters(100, 2)
    cache, plain = filled(model)[0], filled(model)[0]
    del cache.read, plain.read
    assert_no_trace(model, cache, plain, tail, other)


def test_without_a_text_side_or_with_too_few_slots_it_is_refused(model) -> None:
    with pytest.raises(ConfigError, match="give it the model's text side"):
        RecursiveSummary(model.spec, Limits(256))
    with pytest.raises(BudgetError, match="recursive_summary cannot work with 100 slots"):
        RecursiveSummary(model.spec, Limits(100, chunk=8), text=ByteChat())
    with pytest.raises(ValueError, match="evict 0"):
        RecursiveSummary(model.spec, Limits(256), RecursiveSummaryConfig(evict=0), ByteChat())
