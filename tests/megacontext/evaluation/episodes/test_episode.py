from __future__ import annotations

import pytest
import torch
from toy_evaluation import Believer, ToyText, library

from megacontext.baselines.registry import METHODS
from megacontext.config import MemoryConfig
from megacontext.evaluation.caches import CACHES, LOOKING_AHEAD, make_contender, settings
from megacontext.evaluation.episodes.run import run_episode
from megacontext.evaluation.episodes.steps import Ask, Continue, Read
from megacontext.evaluation.tasks import make_task
from megacontext.testing.toy import full_logits, toy_model, toy_tokens
from nanochat.kv_cache import DenseCache

MEMORY = MemoryConfig(budget=160, block=8, recent_tokens=32, far_blocks=4, read_chunk=8, reread_tokens=16)
CANDIDATES = [[1, 2, 3], [4, 5], [6], [7, 8, 9, 10]]


@pytest.fixture(scope="module")
def model():
    return toy_model(window_pattern="L", n_layer=2, sequence_len=512)


def brute_nats(model, before: list[int], scored: list[int]) -> list[float]:
    """By one pass over everything, without a memory."""
    logits = full_logits(model, [*before, *scored])[len(before) - 1 : -1].float()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(scored), reduction="none").tolist()


def contents(cache) -> list[torch.Tensor]:
    """What the next rows would attend to, as far as logits can tell, and what the cache says of itself."""
    return [torch.tensor(cache.length), torch.tensor(cache.usage.resident_slots)]


def test_questions_and_continuations_cost_what_a_full_forward_says(model) -> None:
    text, prompt, more = toy_tokens(150), toy_tokens(9, seed=1), toy_tokens(40, seed=2)
    steps = [Read(text), Ask(prompt, CANDIDATES, 3, []), Continue(more)]
    out = run_episode(model, DenseCache(model.spec), steps, stride=16)
    expected = brute_nats(model, text + prompt, CANDIDATES[3]) + brute_nats(model, text, more)
    assert out.nll == pytest.approx(expected, abs=1e-3)
    assert (out.history, out.asked) == (190, 1)
    assert out.slots == 190


def test_a_question_that_stays_becomes_history_with_the_answer_chosen(model) -> None:
    text, prompt, more = toy_tokens(60), toy_tokens(9, seed=1), toy_tokens(20, seed=2)
    steps = [Read(text), Ask(prompt, CANDIDATES, 1, [], after=[11], stay=True), Continue(more)]
    out = run_episode(model, DenseCache(model.spec), steps, stride=7)
    means = [sum(nats) / len(nats) for nats in (brute_nats(model, text + prompt, c) for c in CANDIDATES)]
    chosen = CANDIDATES[means.index(min(means))]
    expected = brute_nats(model, text + prompt, CANDIDATES[1])
    expected += brute_nats(model, [*text, *prompt, *chosen, 11], more)
    assert out.nll == pytest.approx(expected, abs=1e-3)
    assert out.right == (chosen == CANDIDATES[1])


@pytest.mark.parametrize("name", CACHES)
def test_a_question_asked_of_a_copy_leaves_the_memory_as_it_was(model, name: str) -> None:
    if name == "attention":
        pytest.skip("needs queries")
    text, more = toy_tokens(200), toy_tokens(24, seed=5)
    ask = Ask(toy_tokens(9, seed=1), CANDIDATES, 1, [(40, 48)])
    plain, asked = (
        run_episode(model, make_contender(name, model.spec, MEMORY, text=ToyText(), model=model).cache, steps, stride=1)
        for steps in ([Read(text), Continue(more)], [Read(text), ask, Continue(more)])
    )
    assert asked.nll[-len(more) :] == pytest.approx(plain.nll, abs=1e-4)
    assert asked.history == plain.history


@pytest.mark.parametrize("name", ["full", "recency", "megacontext"])
def test_the_order_of_candidates_does_not_matter(model, name: str) -> None:
    text, prompt = toy_tokens(200), toy_tokens(9, seed=1)
    orders = [CANDIDATES, CANDIDATES[::-1], [CANDIDATES[i] for i in (2, 0, 3, 1)]]
    found = []
    for order in orders:
        ask = Ask(prompt, order, order.index([1, 2, 3]), [])
        found.append(run_episode(model, make_contender(name, model.spec, MEMORY).cache, [Read(text), ask]))
    assert all(out.nll == pytest.approx(found[0].nll, abs=1e-4) for out in found)


@pytest.mark.parametrize("name", [name for name in CACHES if name not in ("full", "attention")])
def test_no_contender_but_the_plain_cache_reads_more_than_its_budget(model, name: str) -> None:
    """Nor holds more, but for those whose method is to hold everything and to read a part."""
    steps = make_task("late_recall", tokens=1200).steps(library(), 0)[:3]
    if name in LOOKING_AHEAD:  # full attention must be able to judge
        model = toy_model(window_pattern="L", n_layer=2, sequence_len=2048)
    contender = make_contender(name, model.spec, MEMORY, text=ToyText(), model=model)
    out = run_episode(model, contender.cache, steps, hint=contender.hint)
    method = METHODS.get(name)
    slots = out.read_slots if method and method.keeps_all else out.slots
    assert MEMORY.budget * 0.6 < slots <= MEMORY.budget == contender.budget
    assert contender.stride == (method.stride or 16 if method else 1)


@pytest.mark.parametrize("name", [*CACHES, "megacontext[tick_tokens=8,nearness=0]"])
def test_what_is_scored_does_not_know_what_comes_after_it(model, name: str) -> None:
    """No target leak: two texts of one beginning cost the same as far as they are the same."""
    if name in (*LOOKING_AHEAD, "attention"):
        pytest.skip("looks ahead on purpose, or needs queries")
    text, same = toy_tokens(300), 19  # in the middle of every stride
    begun = toy_tokens(same, seed=2)
    found = []
    for more in (text[40:80], text[120:160]):  # what a look-up would find at once
        contender = make_contender(name, model.spec, MEMORY, text=ToyText(), model=model)
        steps = [Read(text), Continue(begun + more)]
        found.append(run_episode(model, contender.cache, steps, stride=contender.stride).nll)
    assert found[0][:same] == pytest.approx(found[1][:same], abs=1e-4)
    assert found[0][same] != pytest.approx(found[1][same], abs=1e-4)


def test_an_oracle_is_told_of_every_source(model) -> None:
    told: list = []
    contender = make_contender("oracle", model.spec, MEMORY)
    steps = [*make_task("late_recall", tokens=1200).steps(library(), 0), Continue([1, 2], source=(8, 10))]
    run_episode(model, contender.cache, steps, hint=lambda ranges, ahead: told.append(ranges))
    assert told[0] == []
    assert told[1:11] == [step.sources for step in steps[1:11]]
    assert told[11] == [(8, 10)]


def test_nobody_but_an_oracle_hears_of_sources(model) -> None:
    hints = {name: make_contender(name, model.spec, MEMORY, text=ToyText(), model=model).hint for name in CACHES}
    assert {name for name, hint in hints.items() if hint is not None} == {name for name in CACHES if "oracle" in name}


def test_an_oracle_shows_the_blocks_of_its_hint_when_the_prompt_ends(model) -> None:
    contender = make_contender("oracle", model.spec, MEMORY)
    ask = Ask(toy_tokens(9, seed=1), CANDIDATES, 1, [(40, 52)], stay=True)
    run_episode(model, contender.cache, [Read(toy_tokens(300)), ask], hint=contender.hint)
    shown = {entry.start for entry in contender.cache.context.entries if entry.level == 0}
    assert {40, 48} <= shown


def test_recency_spends_all_its_slots_on_the_newest_tokens(model) -> None:
    config = settings("recency", MEMORY)
    assert config is not None
    assert config.least_budget == config.budget
    assert (config.far_blocks, config.prompt_blocks, config.budget) == (0, 0, MEMORY.budget)
    cache = make_contender("recency", model.spec, MEMORY).cache
    run_episode(model, cache, [Read(toy_tokens(300))])
    exact = [entry.start for entry in cache.context.entries if entry.level == 0]
    assert exact[0] == 0
    assert exact[1:] == list(range(exact[1], 296, 8))


def test_continue_cannot_come_first(model) -> None:
    with pytest.raises(ValueError, match="cannot begin with Continue"):
        run_episode(model, DenseCache(model.spec), [Continue([1, 2])])


def likes(answers: dict[int, int]):
    """Scores: after id `a`, the id answers[a] has nearly all of the likelihood."""

    def scores(token: int) -> torch.Tensor:
        row = torch.zeros(265)
        if token in answers:
            row[answers[token]] = 20.0
        return row

    return scores


def test_one_who_knows_scores_one_and_one_who_guesses_a_tenth() -> None:
    books, task, text = library(), make_task("late_recall", tokens=1500), ToyText()
    right = guessed = asked = 0
    for seed in range(6):
        steps = task.steps(books, seed)
        for ask in steps[1:]:
            code = ask.candidates[ask.answer]
            chain = dict(zip([ask.prompt[-1], *code[:-1]], code, strict=True))
            if len(chain) < len(code):
                continue  # a digit that repeats needs more memory than one token
            short = [Read(steps[0].tokens[:64]), ask]
            right += run_episode(Believer(likes(chain)), DenseCache(Believer(likes({})).spec), short).right
            asked += 1
        random = Believer(lambda token: torch.randn(265))
        guessed += run_episode(random, DenseCache(random.spec), [Read(text.encode("x")), *steps[1:]]).right
    assert right == asked > 20
    assert guessed / 60 < 0.3


def test_items_are_questions_and_pieces_of_sixty_four_tokens(model) -> None:
    more = toy_tokens(150, seed=2)
    ask = Ask(toy_tokens(9, seed=1), CANDIDATES, 3, [], groups=("question 1", "early"))
    marks = [("near",) if place % 2 else ("far", "all") for place in range(len(more))]
    steps = [Read(toy_tokens(100)), ask, Continue(more, groups=marks)]
    out = run_episode(model, DenseCache(model.spec), steps, stride=16)
    asked, scored = out.nll[: len(CANDIDATES[3])], out.nll[len(CANDIDATES[3]) :]
    pieces = [sum(scored[i : i + 64]) / len(scored[i : i + 64]) for i in range(0, 150, 64)]
    assert out.items == pytest.approx([float(out.right), *pieces])
    assert out.item_nll == pytest.approx([sum(asked) / len(asked), *pieces])
    assert out.groups["question 1"] == out.groups["early"] == [float(out.right)]
    assert out.groups["near"] == scored[1::2]
    assert out.groups["far"] == out.groups["all"] == scored[::2]


def test_the_largest_use_of_memory_is_reported(model) -> None:
    cache = DenseCache(model.spec)
    out = run_episode(model, cache, [Read(toy_tokens(100)), Continue(toy_tokens(30, seed=2))], stride=10)
    assert (out.slots, out.read_slots, out.nbytes) == (130, 130, cache.usage.nbytes)


def test_an_oracle_is_told_of_the_tokens_to_come(model) -> None:
    told: list = []
    prompt, more = toy_tokens(9, seed=1), toy_tokens(80, seed=2)
    steps = [Read(toy_tokens(40)), Ask(prompt, CANDIDATES, 1, [(3, 5)]), Continue(more)]
    run_episode(model, DenseCache(model.spec), steps, stride=30, hint=lambda *words: told.append(words))
    assert told[:2] == [([], []), ([(3, 5)], [*prompt, *CANDIDATES[1]])]
    assert told[2:] == [([], more[:64]), ([], more[30:]), ([], more[60:])]
