from __future__ import annotations

import pytest
from toy_evaluation import library

from megacontext.errors import ConfigError
from megacontext.evaluation.episodes.steps import Continue, Read
from megacontext.evaluation.tasks import make_task
from megacontext.evaluation.tasks.loss import LOCAL, LONG_RANGE, NEW, reach
from megacontext.testing.toy import toy_tokens

BOOKS = library()


def brute(text: list[int], place: int, window: int) -> str:
    """By looking at every earlier place, the longer n-gram first."""
    for n in (3, 2):
        gram = text[place - n + 1 : place + 1]
        ends = [end for end in range(n - 1, place) if len(gram) == n and text[end - n + 1 : end + 1] == gram]
        if place >= n - 1 and ends:
            return LONG_RANGE if place - ends[-1] > window else LOCAL
    return NEW


@pytest.mark.parametrize("window", [3, 40])
@pytest.mark.parametrize("vocabulary", [3, 12])
def test_reach_is_the_distance_to_where_the_words_last_stood(window: int, vocabulary: int) -> None:
    text = [token % vocabulary for token in toy_tokens(300)]
    assert reach(text, window) == [(brute(text, place, window),) for place in range(300)]


def test_a_passage_that_returns_from_afar_is_long_range_and_soon_is_local() -> None:
    passage = list(range(50))
    between = list(range(100, 200))
    assert {*reach([*passage, *between, *passage], 120)[152:]} == {(LONG_RANGE,)}
    assert {*reach([*passage, *between, *passage], 160)[152:]} == {(LOCAL,)}


def test_the_groups_of_a_document_are_those_of_its_whole_text() -> None:
    task = make_task("long_range_nll", tokens=3000)
    read, last = task.steps(BOOKS, 2)
    assert len(last.tokens) == len(last.groups) == task.scored
    assert last.groups == reach([*read.tokens, *last.tokens], task.window)[-task.scored :]
    assert {name for names in last.groups for name in names} >= {LONG_RANGE, LOCAL}


def test_positions_are_scored_where_they_are_named() -> None:
    steps = make_task("position_nll", tokens=4096).steps(BOOKS, 1)
    place, found = 0, []
    for step in steps:
        place += len(step.tokens)
        if isinstance(step, Continue):
            assert {*step.groups} == {(f"position {place}",)}
            found.append(place)
            assert len(step.tokens) == len(step.groups) == 128
    assert found == [512, 1024, 2048, 3072, 4096]


def test_every_position_belongs_to_one_document() -> None:
    steps = make_task("position_nll", tokens=2048).steps(BOOKS, 1)
    whole = [token for step in steps for token in step.tokens]
    [book] = [book for book in BOOKS.documents if BOOKS.text.decode(whole) in book.text]
    assert book.title == "text 1"


def test_a_text_before_all_positions_is_refused() -> None:
    with pytest.raises(ConfigError, match="reach no position"):
        make_task("position_nll", tokens=300).steps(BOOKS, 0)


def test_only_the_distance_task_asks_for_it() -> None:
    read, last = make_task("kl_to_full", tokens=2000).steps(BOOKS, 0)
    assert isinstance(read, Read)
    assert last.kl
    assert len(last.tokens) == 256
    assert not make_task("plain_text", tokens=2000).steps(BOOKS, 0)[1].kl
