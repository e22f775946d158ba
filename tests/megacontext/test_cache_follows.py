"""A memory that looks further: what a prompt's fact leads to is shown, after forks and restarts too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from memory_toys import small_config, small_model

from megacontext.cache import ContextCache
from megacontext.focus.scorers import MixScorer, RecencyScorer
from megacontext.testing.toy import ToyWords
from nanochat.engine import prefill
from nanochat.hook import BaseModel

SAID = ["/", "where", "Coin", "coin", "in", "box", "has", "Anna", "anna", "at", "Rome", "An", "+na"]
WORDS = {word: number for number, word in enumerate(SAID)}
TEXT = ToyWords([*SAID, *map(str, range(64 - len(SAID)))])
FACTS = {1: "Coin in box /", 4: "box has Anna /", 7: "anna at Rome /"}


def empty(model: BaseModel, text: ToyWords | None = TEXT, **changes: Any) -> ContextCache:
    """Four far blocks at a prompt's end: so near the end of their short blocks, votes go to the next block as well."""
    config = small_config(scorer="lexical", prompt_blocks=4, expand_above=0.0, **changes)
    return ContextCache(model.spec, config, text=text)


def told(model: BaseModel, text: ToyWords | None = TEXT, **changes: Any) -> ContextCache:
    """A memory of three facts that lead to each other, among blocks that say nothing."""
    cache = empty(model, text, **changes)
    blocks = [FACTS.get(n, f"{n % 9} {n % 7} {n % 5} /").split() for n in range(24)]
    history = [WORDS[word] if word in WORDS else len(SAID) + int(word) for block in blocks for word in block]
    prefill(model, cache, history, answer=False)
    return cache


def shown_to(model: BaseModel, cache: ContextCache, question: str = "where coin /") -> set[int]:
    """Which of the facts the question is shown."""
    prefill(model, cache, [WORDS[word] for word in question.split()], words=(0, 2))
    return FACTS.keys() & {entry.start // 4 for entry in cache.context.entries if entry.level == 0}


@pytest.mark.parametrize(("follows", "facts"), [(0, {1}), (1, {1, 4}), (2, {1, 4, 7})])
def test_a_prompt_is_shown_what_its_fact_leads_to(follows, facts):
    model = small_model()
    with torch.inference_mode():
        cache = told(model, prompt_follows=follows)
        assert shown_to(model, cache.fork()) == facts
        twin = empty(model, prompt_follows=follows)
        twin.restore(cache.state(), cache.tree.tokens(0, cache.length), model)
        assert shown_to(model, twin) == shown_to(model, cache) == facts


def test_without_a_vocabulary_every_id_is_a_word_of_its_own_and_nothing_is_followed():
    model = small_model()
    with torch.inference_mode():
        assert shown_to(model, told(model, None)) == set()
        assert shown_to(model, told(model, None), "where Coin /") == {1}


def test_of_what_was_found_the_earlier_steps_go_first_when_places_are_few():
    model = small_model()
    with torch.inference_mode():
        cache = told(model, prompt_follows=2)
        cache.allocator = replace(cache.allocator, prompt_blocks=3)
        assert shown_to(model, cache) == {1, 4}


def test_the_mix_follows_its_words():
    class Following(RecencyScorer):
        def follow(self, moment, scores):
            return {**scores, 7: 0.5}

    assert MixScorer(Following(), RecencyScorer()).follow(None, {1: 1.0}) == {1: 1.0, 7: 0.5}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("cut", [16, 17, 18])
def test_a_name_in_pieces_is_found_by_its_word_in_one_wherever_reading_stopped(cut, restart):
    model = small_model()
    fact = [WORDS[word] for word in ("An", "+na", "at", "Rome", "/", "/", "/", "/")]
    others = [len(SAID) + number % 9 for number in range(80)]
    text = [*others[:16], *fact, *others]
    with torch.inference_mode():
        cache = empty(model, prompt_follows=0)
        prefill(model, cache, text[:cut], answer=False)
        if restart:
            state, said = cache.state(), cache.tree.tokens(0, cache.length)
            cache = empty(model, prompt_follows=0)
            cache.restore(state, said, model)
        prefill(model, cache, text[cut:], answer=False)
        prefill(model, cache, [WORDS[word] for word in ("where", "anna", "/")], words=(0, 2))
        assert 4 in {entry.start // 4 for entry in cache.context.entries if entry.level == 0}
