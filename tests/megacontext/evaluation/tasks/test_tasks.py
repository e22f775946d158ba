from __future__ import annotations

import re

import pytest
from toy_evaluation import ToyText, library

from megacontext.errors import ConfigError
from megacontext.evaluation.episodes.steps import Ask, Continue, Read
from megacontext.evaluation.tasks import TASKS, make_task
from megacontext.evaluation.tasks.chat_facts import KINDS, Kind

TEXT = ToyText()
SMALL = {
    "late_recall": 3000,
    "late_recall_chained": 3000,
    "late_recall_long": 6000,
    "late_recall_100x": 6000,
    "copy_at_distance": 2000,
    "chat_recall": 4000,
    "chat_recall_many": 12000,
    "plain_text": 3000,
    "plain_text_six": 3000,
    "long_range_nll": 3000,
    "position_nll": 3072,
    "kl_to_full": 3000,
}
SMALL = {name: SMALL.get(name, 8000) for name in TASKS}
BOOKS = library()


def history(steps: list) -> list[int]:
    return [token for step in steps if isinstance(step, Read) for token in step.tokens]


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_fixes_the_episode_and_another_gives_another(name: str) -> None:
    task = make_task(name, tokens=SMALL[name])
    first = task.steps(BOOKS, 3)
    assert first == task.steps(library(), 3)
    assert first != task.steps(BOOKS, 4)


@pytest.mark.parametrize("name", TASKS)
def test_a_private_word_gives_other_episodes_and_without_one_they_stay_as_they_were(name: str) -> None:
    plain, *held_out = (make_task(name, tokens=SMALL[name], private=word).steps(BOOKS, 3) for word in ("", "a", "b"))
    assert plain == make_task(name, tokens=SMALL[name]).steps(BOOKS, 3)
    assert plain not in held_out
    assert held_out[0] != held_out[1]


@pytest.mark.parametrize("name", TASKS)
def test_the_history_is_about_as_long_as_asked_for(name: str) -> None:
    steps = make_task(name, tokens=SMALL[name]).steps(BOOKS, 0)
    scored = sum(len(step.tokens) for step in steps if isinstance(step, Continue) and step.source is None)
    assert len(history(steps)) + scored == pytest.approx(SMALL[name], rel=0.1)


TOLD = ["late_recall", "late_recall_chained", "late_recall_long", "late_recall_100x", "chat_recall", "chat_recall_many"]


@pytest.mark.parametrize("name", TOLD)
@pytest.mark.parametrize("seed", range(3))
def test_the_right_answer_stands_in_history_at_its_sources_and_nowhere_else(name: str, seed: int) -> None:
    steps = make_task(name, tokens=SMALL[name]).steps(BOOKS, seed)
    told = history(steps)
    asks = [step for step in steps if isinstance(step, Ask)]
    assert asks
    for ask in asks:
        answer = TEXT.decode(ask.candidates[ask.answer])
        [(start, end)] = ask.sources
        assert answer in TEXT.decode(told[start:end])
        assert answer not in TEXT.decode(told[:start] + told[end:])
        assert len({tuple(candidate) for candidate in ask.candidates}) == len(ask.candidates)


def test_late_recall_asks_ten_questions_among_ten_codes() -> None:
    for name in ("late_recall", "late_recall_long"):
        asks = [step for step in make_task(name, tokens=SMALL[name]).steps(BOOKS, 0) if isinstance(step, Ask)]
        assert len(asks) == 10
        assert all(len(ask.candidates) == 10 and not ask.stay for ask in asks)


def test_a_chained_episode_is_the_same_but_that_questions_stay() -> None:
    plain, chained = (make_task(name, tokens=3000).steps(BOOKS, 1) for name in ("late_recall", "late_recall_chained"))
    assert history(plain) == history(chained)
    assert [ask.prompt for ask in plain[1:]] == [ask.prompt for ask in chained[1:]]
    assert all(ask.stay for ask in chained[1:])


def test_the_copied_passage_is_the_one_at_its_source() -> None:
    read, again = make_task("copy_at_distance", tokens=2000).steps(BOOKS, 0)
    start, end = again.source
    assert again.tokens == read.tokens[start:end]
    assert len(again.tokens) == 512


def test_plain_text_takes_documents_from_all_over_the_corpus() -> None:
    books, task = library(documents=6), make_task("plain_text", tokens=3000)
    pieces = [TEXT.decode(history(task.steps(books, seed)))[:200] for seed in range(3)]
    found = [next(i for i, book in enumerate(books.documents) if piece in book.text) for piece in pieces]
    assert found == [0, 2, 4]


def test_six_seeds_take_six_documents_and_name_them() -> None:
    books, task = library(documents=12), make_task("plain_text_six", tokens=3000)
    groups = [task.steps(books, seed)[1].groups for seed in range(6)]
    assert [set(names) for names in groups] == [{(f"document text {i}",)} for i in range(0, 12, 2)]


def test_running_text_has_no_right_blocks() -> None:
    running = ["plain_text", "plain_text_six", "long_range_nll", "position_nll", "kl_to_full"]
    assert [task.name for task in TASKS.values() if not task.has_sources] == running


def test_facts_of_a_chat_are_told_in_turns_far_from_both_ends() -> None:
    steps = make_task("chat_recall", tokens=6400).steps(BOOKS, 0)
    told = history(steps)
    for ask in steps[1:]:
        [(start, end)] = ask.sources
        assert TEXT.decode(told[start : start + 1]) == ""  # the turn's own header
        assert start > 400
        assert len(told) - end > 1200


def test_many_facts_of_a_chat_are_all_asked_for_by_number() -> None:
    _, *asks = make_task("chat_recall_many", tokens=12000).steps(BOOKS, 0)
    assert len({tuple(ask.prompt) for ask in asks}) == len(asks) == len(KINDS)
    assert asks[0].groups == ("question 1",)
    assert asks[13].groups == ("question 16",)


SMALL_WORDS = "a the is in of on i my me you your that said and it at to as for do does did am are was have with"


def content_words(text: str) -> set[str]:
    return set(re.sub(r"[^a-z' ]", "", text.lower()).split()) - set(SMALL_WORDS.split())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_chat_question_shares_no_content_word_with_the_statement(kind: Kind) -> None:
    asked = content_words(kind.question) | content_words(kind.answer)
    assert not content_words(kind.statement) & asked


def test_every_kind_has_ten_values_none_of_which_is_part_of_another() -> None:
    for kind in KINDS:
        assert len(kind.values) >= 10
        assert not [(a, b) for a in kind.values for b in kind.values if a != b and a in b]
        assert kind.statement.count("{}") == 1


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean late_recall_long"):
        make_task("late_recal_long")


def test_too_few_tokens_are_refused_with_a_reason() -> None:
    for name in ("late_recall", "copy_at_distance", "plain_text"):
        with pytest.raises(ConfigError, match="64"):
            make_task(name, tokens=64).steps(BOOKS, 0)
    with pytest.raises(ConfigError, match="tokens; the task takes"):
        make_task("plain_text").steps(library(count=100), 0)
