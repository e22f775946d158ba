"""What is timed, on toys: it must leave histories as they were, and stand where it says."""

from __future__ import annotations

from itertools import islice, pairwise
from time import perf_counter

import pytest
import torch
from toy_evaluation import ToyText, library

from megacontext.config import MemoryConfig
from megacontext.evaluation.caches import make_contender
from megacontext.evaluation.speed.answering import Answering
from megacontext.evaluation.speed.bare import BarePass, products
from megacontext.evaluation.speed.contenders import WARM, Ours
from megacontext.evaluation.speed.filling import fill
from megacontext.evaluation.speed.same_slots import SameSlots
from megacontext.models.base import LoadedModel
from megacontext.testing.toy import toy_model, toy_tokens
from nanochat.kv_cache import DenseCache

MEMORY = MemoryConfig(budget=96, block=8, recent_tokens=32, far_blocks=4, read_chunk=8, reread_tokens=16)


def ours(name: str, history: int = 200) -> Ours:
    model = toy_model(window_pattern="L", n_layer=2, sequence_len=1024)
    one = Ours(name, LoadedModel(model, ToyText(), "toy"), make_contender(name, model.spec, MEMORY))
    one.read(list(islice(library(1).stream(), history)))
    return one


@pytest.mark.parametrize("name", ["full", "megacontext", "recency", "streaming_llm"])
def test_decoding_and_answering_leave_the_history_as_it_was(name: str) -> None:
    one = ours(name)
    before = one.slots
    with one.going_on([]):
        assert [len(one.decode(5)), len(one.decode(5))] == [5, 5]
    assert one.first_token(toy_tokens(9)) > 0
    assert (one.length, one.slots) == (200, before)


def test_rounds_go_on_from_each_other() -> None:
    one = ours("full")
    with one.going_on([]):
        one.decode(4)
        first = one.shown
        one.decode(4)
        assert [first[0], one.shown[0]] == [200, 200 + WARM + 4]


def test_nothing_can_be_decoded_before_something_was_read_or_after_the_rounds() -> None:
    one = ours("full")
    with pytest.raises(ValueError, match="going_on"):
        one.decode(1)
    one._logits = None
    with pytest.raises(ValueError, match="read nothing"), one.going_on([]):
        pass


def test_the_plain_cache_beside_a_memory_stands_at_its_slots_at_every_token() -> None:
    one = ours("megacontext")
    seen: list[int] = []

    class Watched(SameSlots):
        def _stand_at(self, rows: int) -> None:
            super()._stand_at(rows)
            seen.append(self.cache.length)

    beside = Watched("plain", LoadedModel(one.model, ToyText(), "toy"), one, toy_tokens(96))
    with one.going_on([]), beside.going_on([]):
        for _ in range(4):
            one.decode(12)
            beside.decode(12)
            assert seen == one.shown
            seen.clear()
    assert all(80 <= slots <= 96 for slots in one.shown)


def test_in_an_answer_the_view_is_held_and_the_history_stays_as_it_was() -> None:
    one = ours("megacontext")
    loaded = LoadedModel(one.model, ToyText(), "toy")
    answering = Answering("answer", loaded, one)
    prompt, ticks = toy_tokens(9), one.cache.tick
    with answering.going_on(prompt):
        assert len(answering.decode(6)) == 6
        assert answering._going is not None
        twin = answering._going[0]
        assert twin.tick == ticks + 2, "reading the prompt, and its end: none while it answers"
        assert twin.held is not None
        assert list(twin.tree.tokens(200, 209)) == prompt
        assert answering.slots == answering.read_slots == twin.context.slots - 1 < one.slots
    assert answering.nbytes == twin.usage.nbytes
    assert [later - earlier for earlier, later in pairwise(answering.shown)] == [1] * (WARM + 5)
    assert (one.length, answering.length, one.cache.tick) == (200, 200, ticks)


def test_the_plain_cache_beside_a_memory_refuses_another_number_of_tokens() -> None:
    one = ours("megacontext")
    beside = SameSlots("plain", LoadedModel(one.model, ToyText(), "toy"), one, toy_tokens(96))
    with one.going_on([]):
        one.decode(3)
        with pytest.raises(ValueError, match="as many tokens"):
            beside.decode(4)
    with pytest.raises(ValueError, match="decodes alone"):
        beside.first_token([1])


def test_filled_rows_are_those_of_a_pass_over_the_passage() -> None:
    model, text = toy_model(window_pattern="L", n_layer=2), toy_tokens(6)
    cache, real = DenseCache(model.spec), DenseCache(model.spec)
    fill(model, cache, 15, text)
    model.forward(model.embed(torch.tensor([text])), real)
    assert cache.length == 15
    for layer in range(model.spec.layers):
        torch.testing.assert_close(cache._keys[layer][:, :, :6], real._keys[layer][:, :, :6])
        torch.testing.assert_close(cache._values[layer][:, :, 12:15], real._values[layer][:, :, :3])


def test_a_memory_that_chooses_cannot_be_filled() -> None:
    with pytest.raises(ValueError, match="must read"):
        ours("megacontext").fill(8)


def test_the_bare_pass_goes_through_every_matrix_of_the_model() -> None:
    model = toy_model(window_pattern="L", n_layer=2)
    inside = sum(parameter.numel() for name, parameter in model.named_parameters() if name.endswith(("c_q.weight",)))
    assert len(products(model)) > 2 * 6
    assert inside
    assert all(value > 0 for value in BarePass(model).time(3, perf_counter))


def test_a_family_without_known_matrices_has_no_bare_pass() -> None:
    class Other:
        spec = toy_model(n_layer=1).spec

    assert not BarePass(Other())  # type: ignore[arg-type]
