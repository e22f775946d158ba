"""Every answer is found again by reading the episode's text with eyes of another make: regular expressions."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from toy_evaluation import ToyText, library

from megacontext.errors import ConfigError
from megacontext.evaluation.episodes.steps import Ask, Continue, Read
from megacontext.evaluation.tasks import TASKS, make_task
from megacontext.evaluation.tasks.told import QUIET, alike, nth
from megacontext.evaluation.tasks.words import HOLDERS, OBJECTS, PEOPLE, PLACES, WORDS

TEXT, BOOKS = ToyText(), library()
LENGTH = 8000
ASKING = [
    "late_recall_64",
    "late_recall_64_chained",
    "recall_revisited",
    "recall_revisited_chained",
    "recall_corrected",
    "recall_contradicted",
    "needles_multi_key",
    "needles_multi_value",
    "needles_multi_query",
    "passkey",
    "variable_tracking",
    "common_words",
    "frequent_words",
    "babi",
]
SEEDS = range(3)


def episode(name: str, seed: int) -> list[tuple[list[int], Ask]]:
    """Every question of an episode with the history before it; of what stays, the right answer."""
    past: list[int] = []
    found = []
    for step in make_task(name, tokens=LENGTH).steps(BOOKS, seed):
        if isinstance(step, Ask):
            found.append((list(past), step))
            past += [*step.prompt, *step.candidates[step.answer], *step.after] if step.stay else []
        elif isinstance(step, Read | Continue):
            past += step.tokens
    return found


def said(ask: Ask) -> tuple[str, str, list[str]]:
    """The question, the right answer, the wrong ones."""
    words = [TEXT.decode(candidate).removeprefix(" ") for candidate in ask.candidates]
    right = words.pop(ask.answer)
    return TEXT.decode(ask.prompt), right, words


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_right_answer_is_one_of_different_ones_and_not_in_the_question(name: str, seed: int) -> None:
    asks = episode(name, seed)
    assert len(asks) >= 3
    for _, ask in asks:
        question, right, wrong = said(ask)
        assert len({right, *wrong}) == len(ask.candidates) >= 6
        assert not re.search(rf"\b{re.escape(right)}\b", question)
        assert ask.groups or name == "needles_multi_key" or name == "needles_multi_query"


@pytest.mark.parametrize("name", ASKING)
def test_the_right_answer_stands_at_any_place_among_the_choices(name: str) -> None:
    places = Counter(ask.answer for seed in range(12) for _, ask in episode(name, seed))
    count = max(len(ask.candidates) for _, ask in episode(name, 0))
    asked = sum(places.values())
    assert set(places) <= set(range(count))
    assert max(places.values()) < 4 + 3 * asked / count  # far from one place alone
    assert len(places) > count / 2


@pytest.mark.parametrize("name", [name for name in ASKING if name not in ("passkey", "common_words", "frequent_words")])
@pytest.mark.parametrize("seed", SEEDS)
def test_sources_are_whole_statements_that_hold_the_answers_words(name: str, seed: int) -> None:
    for past, ask in episode(name, seed):
        pieces = [TEXT.decode(past[start:end]) for start, end in ask.sources]
        assert all(re.fullmatch(r"\n\n[^\n]+\.\n\n", piece) for piece in pieces)
        _, right, _ = said(ask)
        known = {*WORDS, *PEOPLE, *PLACES, *OBJECTS, *HOLDERS}
        assert all(any(word in piece for piece in pieces) for word in re.findall(r"\w+", right) if word in known)


@pytest.mark.parametrize("name", [name for name in ASKING if not re.match("passkey|recall_revisited", name)])
def test_the_end_of_the_text_is_quiet(name: str) -> None:
    past, _ = episode(name, 0)[0]
    told = re.findall(r"\n\n[^\n]+\.\n\n", TEXT.decode(past[-LENGTH // QUIET :]))
    assert told == []
    assert len(past) == pytest.approx(LENGTH, abs=1)


WORD = re.compile(r"[Tt]he secret word of the (\w+ \w+) is (\w+)\.")


@pytest.mark.parametrize("name", [name for name in ASKING if re.match("late_recall_64|recall_(rev|cor)", name)])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_newest_statement_about_a_thing_is_right_and_the_older_ones_are_wrong(name: str, seed: int) -> None:
    for past, ask in episode(name, seed):
        question, right, wrong = said(ask)
        [thing] = set(re.findall(r"secret word of the (\w+ \w+)[ ?]", question))
        told = [word for one, word in WORD.findall(TEXT.decode(past)) if one == thing]
        assert right == told[-1]
        assert {*told} - {right} <= {*wrong}
        if name == "recall_corrected":
            assert ask.groups == (("never changed", "changed once", "changed twice")[len(told) - 1],)


@pytest.mark.parametrize("name", [name for name in ASKING if name.startswith("late_recall_64")])
def test_all_sixty_four_facts_are_asked_once(name: str) -> None:
    asks = episode(name, 0)
    assert len({tuple(ask.prompt) for _, ask in asks}) == len(asks) == 64
    assert Counter(group for _, ask in asks for group in ask.groups) == {
        "question 1": 1,
        "question 2": 1,
        "question 4": 2,
        "question 8": 4,
        "question 16": 8,
        "question 32": 16,
        "question 64": 32,
    }


@pytest.mark.parametrize("name", ["late_recall_64", "recall_revisited"])
def test_chained_tasks_ask_the_same_and_let_it_stay(name: str) -> None:
    plain, chained = episode(name, 1), episode(f"{name}_chained", 1)
    assert [said(ask) for _, ask in plain] == [said(ask) for _, ask in chained]
    assert not any(ask.stay for _, ask in plain)
    assert all(ask.stay for _, ask in chained)
    assert len(chained[-1][0]) > len(plain[-1][0])


def test_text_goes_on_between_questions_and_old_facts_are_asked_again() -> None:
    steps = make_task("recall_revisited", tokens=LENGTH).steps(BOOKS, 0)
    kinds = "".join("R" if isinstance(step, Read) else "A" for step in steps)
    assert kinds == "R" + "RAAAA" * 6
    times: Counter[str] = Counter()
    for _, ask in episode("recall_revisited", 0):
        question, *_ = said(ask)
        times[question] += 1
        assert ask.groups == (("asked 1 time", "asked 2 times", "asked 3 times")[min(times[question], 3) - 1],)
    assert max(times.values()) >= 3


def test_answers_that_stay_make_history_grow_alike_whichever_is_chosen() -> None:
    for _, ask in episode("recall_revisited_chained", 0):
        assert len({len(candidate) for candidate in ask.candidates}) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_each_of_two_people_is_asked_for_what_they_said_themselves(seed: int) -> None:
    for past, ask in episode("recall_contradicted", seed):
        question, right, wrong = said(ask)
        told = re.findall(r"(\w+) says that the secret word of the (\w+ \w+) is (\w+)\.", TEXT.decode(past))
        [(person, thing)] = re.findall(r"What does (\w+) say about the (\w+ \w+)\?", question)
        [(place, mine)] = [(i, word) for i, (who, what, word) in enumerate(told) if (who, what) == (person, thing)]
        [(twin, other)] = [(i, word) for i, (who, what, word) in enumerate(told) if who != person and what == thing]
        assert right == mine
        assert other in wrong
        assert ask.groups == ("said first" if place < twin else "said last",)


NEEDLE = re.compile(r"(?:The|One of the) magic words? for the (\w+ \w+) is (\w+)\.")


@pytest.mark.parametrize("seed", SEEDS)
def test_needles_are_found_under_their_keys(seed: int) -> None:
    for past, ask in episode("needles_multi_key", seed):
        needles = NEEDLE.findall(TEXT.decode(past))
        question, right, wrong = said(ask)
        key = question.split(" for the ")[1].split("?")[0]
        assert dict(needles)[key] == right
        assert {*wrong} <= {word for _, word in needles}
        halves = [half for one, _ in needles if one != key for half in one.split()]
        assert {*key.split()} <= {*halves}  # both halves of the key are those of others, too


@pytest.mark.parametrize("seed", SEEDS)
def test_every_value_of_a_key_is_asked_for_once_and_none_is_a_wrong_answer(seed: int) -> None:
    asked: dict[str, list[str]] = {}
    for past, ask in episode("needles_multi_value", seed):
        question, right, wrong = said(ask)
        key = question.split(" for the ")[1].split("?")[0]
        values = {word for one, word in NEEDLE.findall(TEXT.decode(past)) if one == key}
        assert right in values
        assert not values & {*wrong}
        assert asked.setdefault(key, []) == re.findall(r" (\w+),", question.split(" are")[-1])
        asked[key].append(right)
        assert ask.groups == (f"value {len(asked[key])}",)
    assert [len(set(values)) for values in asked.values()] == [4, 4]


@pytest.mark.parametrize("seed", SEEDS)
def test_one_answer_names_the_words_of_all_keys_of_the_question(seed: int) -> None:
    for past, ask in episode("needles_multi_query", seed):
        needles = dict(NEEDLE.findall(TEXT.decode(past)))
        question, right, wrong = said(ask)
        keys = re.findall(r"the (\w+ \w+)[,?]", question)
        assert len(keys) == len(ask.sources) == 3
        assert named(question, right) == {key: needles[key] for key in keys}
        misses = [sum(named(question, answer)[key] != needles[key] for key in keys) for answer in wrong]
        assert sorted(misses) == [1, 1, 1, 1, 3]


def named(question: str, answer: str) -> dict[str, str]:
    """The word that an answer gives to each key."""
    return dict(re.findall(r"he magic word for the (\w+ \w+) is (\w+)", f"{question} {answer}"))


@pytest.mark.parametrize("seed", SEEDS)
def test_passkeys_lie_at_their_depths_and_the_wrong_ones_nowhere(seed: int) -> None:
    for past, ask in episode("passkey", seed):
        question, right, wrong = said(ask)
        owner = question.split("pass key of the ")[1].split("?")[0]
        whole = TEXT.decode(past)
        assert f"The pass key of the {owner} is {right}." in whole
        assert not [number for number in wrong if number in whole]
        [(start, end)] = ask.sources
        assert TEXT.decode(past[start:end]).count(right) == 2
        assert ask.groups == (f"passkey depth {round(100 * start / len(past) / 10) * 10}%",)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_variable_is_followed_link_by_link_to_its_value(seed: int) -> None:
    for past, ask in episode("variable_tracking", seed):
        links = dict(re.findall(r"VAR (\w+) = (\w+)\.", TEXT.decode(past)))
        question, right, wrong = said(ask)
        name = question.split("What is ")[1].split("?")[0]
        path = []
        while name in links:
            name = links[name]
            path.append(name)
        assert right == " = ".join(path)
        assert ask.groups == (f"hops {len(path) - 1}",)
        assert all(answer.count("=") == right.count("=") for answer in wrong)


@pytest.mark.parametrize("name", ["common_words", "frequent_words"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_right_word_is_frequent_in_the_lists_and_the_wrong_ones_are_rare(name: str, seed: int) -> None:
    asks = episode(name, seed)
    past, _ = asks[0]
    lists = re.findall(r"List of words: ([\w, ]+)\.", TEXT.decode(past))
    counts = Counter(word for one in lists for word in one.split(", "))
    assert len({said(ask)[1] for _, ask in asks}) == len(asks)
    for _, ask in asks:
        _, right, wrong = said(ask)
        assert ask.groups == (f"{counts[right]} times",)
        assert counts[right] >= 8
        assert all(counts[word] == 1 for word in wrong)
        assert len(ask.sources) == len(lists)


MOVED, HELD, LIES = (
    re.compile(words)
    for words in (r"(\w+) moved to the (\w+)\.", r"The (\w+) is with (\w+)\.", r"The (\w+) is in the (\w+)\.")
)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_small_world_is_as_its_statements_leave_it(seed: int) -> None:
    for past, ask in episode("babi", seed):
        world = [dict(pattern.findall(TEXT.decode(past))) for pattern in (MOVED, HELD, LIES)]  # the last one stays
        place, carrier, inside = world
        question, right, wrong = said(ask)
        what = re.findall(r"Where is (?:the )?(\w+)\?", question)[0]
        holder = inside.get(what, what)
        start = question.split("Answer: ")[1]
        assert right.endswith(place[carrier.get(holder, holder)])
        assert true_in(world, f"{start} {right}.")
        assert not any(true_in(world, f"{start} {answer}.") for answer in wrong)
        assert ask.groups == ({1: "one fact", 2: "two facts", 3: "three facts"}[len(ask.sources)],)
        assert len(ask.sources) == 1 + (what in inside) + (holder in carrier)


def true_in(world: list[dict[str, str]], line: str) -> bool:
    """Whether every sentence of the line is true in the end."""
    claims = zip(world, (MOVED, HELD, LIES), strict=True)
    return all(truth[a] == b for truth, pattern in claims for a, b in pattern.findall(line))


@pytest.mark.parametrize("name", ASKING)
def test_too_little_text_is_refused_with_a_reason(name: str) -> None:
    with pytest.raises(ConfigError, match="300 tokens have no room"):
        make_task(name, tokens=300).steps(BOOKS, 0)


def test_a_choice_of_words_alike_has_one_length() -> None:
    words = alike(BOOKS, WORDS)
    assert len(words) >= 14
    assert len({len(TEXT.encode(word)) for word in words}) == 1


def test_questions_are_grouped_by_powers_of_two() -> None:
    assert [nth(number) for number in (1, 2, 3, 4, 5, 33, 64)] == [
        f"question {bound}" for bound in (1, 2, 4, 4, 8, 64, 64)
    ]


def test_words_are_no_parts_of_each_other_nor_of_names() -> None:
    for group in (WORDS, PEOPLE, PLACES, OBJECTS, HOLDERS):
        assert len(set(group)) == len(group)
    assert not [(a, b) for a in WORDS for b in WORDS if a != b and re.search(rf"\b{a}\b", b)]


def test_every_task_that_asks_is_read_here_or_in_its_own_tests() -> None:
    asking = {name for name, task in TASKS.items() if task.has_sources} - {"copy_at_distance"}
    own = {
        "late_recall",
        "late_recall_chained",
        "late_recall_long",
        "late_recall_100x",
        "chat_recall",
        "chat_recall_many",
    }
    assert asking == own | {*ASKING}
