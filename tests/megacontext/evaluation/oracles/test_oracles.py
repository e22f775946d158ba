"""Oracles that look ahead, against plain loops over full forwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from toy_oracles import VOCAB, attend, learned_positions, repeating_model, toy, views_of

from megacontext.baselines.rereading import cost_of_reading
from megacontext.cache import ContextCache
from megacontext.config import MemoryConfig
from megacontext.errors import ConfigError
from megacontext.evaluation.caches import LOOKING_AHEAD, make_contender
from megacontext.evaluation.episodes.run import run_episode
from megacontext.evaluation.episodes.steps import Ask, Continue, Read
from megacontext.evaluation.oracles import scorers
from megacontext.evaluation.oracles.judging import Change, Mass
from megacontext.evaluation.oracles.scorers import most_tokens
from megacontext.evaluation.oracles.shadow import Shadow
from megacontext.evaluation.oracles.swap import Trial
from megacontext.testing.toy import full_logits, toy_tokens
from nanochat.hook import BaseModel, KVView

BLOCK = 4
MEMORY = MemoryConfig(
    budget=64, block=BLOCK, recent_tokens=16, prompt_recent_tokens=16, far_blocks=4, prompt_blocks=2, read_chunk=8
)


def mass_by_loops(views: list[KVView], rows: range, block: int) -> float:
    slots = range(block * BLOCK, (block + 1) * BLOCK)
    return max(
        sum(attend(view, head, row)[0][slot] for slot in slots)
        for view in views
        for head in range(view.q.shape[1])
        for row in rows
    )


def change_by_loops(views: list[KVView], rows: range, block: int) -> float:
    slots, total = range(block * BLOCK, (block + 1) * BLOCK), 0.0
    for row in rows:
        for view in views:
            moved = []
            for head in range(view.q.shape[1]):
                whole = attend(view, head, row)[1]
                moved.append(float((whole - attend(view, head, row, slots)[1]).norm() / whole.norm()))
            total += max(moved)
    return total / len(rows)


@pytest.mark.parametrize(("dtype", "rows", "error"), [(torch.float32, 4, 1e-3), (torch.bfloat16, 1, 0.05)])
@pytest.mark.parametrize(("judge", "by_loops"), [(Mass, mass_by_loops), (Change, change_by_loops)])
def test_blocks_are_judged_as_plain_loops_over_a_full_forward_judge_them(
    judge: Any, by_loops: Any, dtype: torch.dtype, rows: int, error: float
) -> None:
    """A single row in bf16 comes with spare slots, which are of no block."""
    model, history, ahead = toy(dtype=dtype), toy_tokens(26, vocab=VOCAB), toy_tokens(rows, vocab=VOCAB, seed=1)
    found = Shadow(model, judge(BLOCK)).look(history, ahead, 4)
    views = views_of(model, [*history, *ahead])
    judged = range(len(history) - 1, len(history) + len(ahead) - 1)  # those that predict what is ahead
    assert found.tolist() == pytest.approx([by_loops(views, judged, block) for block in range(4)], rel=error)


def test_a_layer_with_a_window_gives_nothing_to_what_is_outside_it() -> None:
    found = Shadow(repeating_model(window=16), Mass(BLOCK)).look(toy_tokens(40, vocab=VOCAB), [1, 2], 9)
    assert found[:5].tolist() == [0.0] * 5
    assert found[8] > 0


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("judge", [Mass, Change])
def test_a_shadow_that_goes_from_one_text_to_another_is_as_good_as_a_new_one(judge: Any, raw: bool) -> None:
    model = toy("G4", sequence_len=128, window_pattern="SL")
    text, aside = toy_tokens(80, vocab=VOCAB), toy_tokens(30, vocab=VOCAB, seed=1)
    shadow = Shadow(model, judge(BLOCK), raw=raw)
    looks = [(text[:n], text[n : n + 8]) for n in range(40, 48)]  # text that flows
    looks += [([*text[:44], *aside[:n]], aside[n : n + 5]) for n in (6, 11)]  # a copy that is asked something
    looks += [(text[:50], text[50:58]), (text[:20], text[20:22]), (text[:70], text[70:])]
    for history, ahead in looks:
        fresh = Shadow(model, judge(BLOCK)).look(history, ahead, len(history) // BLOCK)
        found = shadow.look(history, ahead, len(history) // BLOCK)
        assert found.tolist() == pytest.approx(fresh.tolist(), abs=1e-5)
        assert shadow.text == [*history, *ahead[:-1]]


def test_text_that_flows_costs_one_row_a_token() -> None:
    model, text = toy(), toy_tokens(60, vocab=VOCAB)
    shadow, rows = Shadow(model, Mass(BLOCK)), []
    shadow.look(text[:30], text[30:38], 4)
    plain = shadow._pass
    shadow._pass = lambda tokens, judged: (rows.append(len(tokens)), plain(tokens, judged))[1]  # type: ignore[method-assign]
    for now in range(31, 41):
        shadow.look(text[:now], text[now : now + 8], 4)
    assert rows == [1] * 10


# --- what a block is worth in view ---


def loss_by_hand(model: BaseModel, kept: Sequence[int], ahead: Sequence[int]) -> float:
    logits = full_logits(model, [*kept, *ahead])[len(kept) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits.float(), torch.tensor(list(ahead))))


def trial_of(model: BaseModel, history: list[int], ahead: list[int], first: int, recent_start: int) -> Trial:
    shadow = Shadow(model, Mass(BLOCK), raw=True)
    shadow.look(history, ahead, 1)
    at = len(history)
    carry = shadow.carry_before(at - 1)
    return Trial(
        model, shadow.cache, [*history, *ahead], at, carry, block=BLOCK, first=first, recent_start=recent_start
    )


def test_a_blocks_gain_is_that_of_reading_the_chosen_tokens_alone() -> None:
    """With one layer, keys and values depend on their own token, so that this is the whole truth."""
    model = toy(n_layer=1)
    history, ahead = toy_tokens(41, vocab=VOCAB), toy_tokens(6, vocab=VOCAB, seed=1)
    gains = trial_of(model, history, ahead, BLOCK, 28).gains(range(1, 7))
    without = loss_by_hand(model, history[:BLOCK] + history[28:], ahead)
    for number, gain in enumerate(gains, 1):
        chosen = history[:BLOCK] + history[number * BLOCK : (number + 1) * BLOCK] + history[28:]
        assert gain == pytest.approx(without - loss_by_hand(model, chosen, ahead), abs=1e-4)


MODELS = {
    "no windows": toy,
    "windows, a carry, value embeddings": lambda: toy("G4", n_layer=3, window_pattern="SSL", sequence_len=64),
    "learned positions": learned_positions,
}


@pytest.mark.parametrize("family", MODELS)
def test_a_view_to_which_only_one_block_was_missing_predicts_as_full_attention_does(family: str) -> None:
    model = MODELS[family]()
    history, ahead = toy_tokens(41, vocab=VOCAB), toy_tokens(6, vocab=VOCAB, seed=1)
    trial = trial_of(model, history, ahead, 3 * BLOCK, 4 * BLOCK)
    (whole,) = trial._losses([list(range(3 * BLOCK, 4 * BLOCK))])
    assert whole == pytest.approx(loss_by_hand(model, history, ahead), abs=1e-4)
    assert trial.gains([3]) == pytest.approx([trial._losses([[]])[0] - whole], abs=1e-5)


# --- as memories ---


def with_a_planted_block(block: int) -> list[int]:
    """Text in which one token fills that block and stands nowhere else."""
    text = [token % 60 for token in toy_tokens(150, vocab=60)]
    text[block * BLOCK : (block + 1) * BLOCK] = [63] * BLOCK
    return text


def shown(cache: ContextCache) -> set[int]:
    return {entry.start // BLOCK for entry in cache.context.entries if entry.level == 0}


@pytest.mark.parametrize("name", LOOKING_AHEAD)
@pytest.mark.parametrize("block", [5, 11])
def test_a_passage_that_comes_back_is_found_first(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = repeating_model(), []
    plain = scorers.LookAhead.score
    monkeypatch.setattr(
        scorers.LookAhead, "score", lambda self, moment: (found.append((moment, plain(self, moment))), found[-1][1])[1]
    )
    contender = make_contender(name, model.spec, MEMORY, model=model)
    ask = Ask([7, 8, 63], [[63, 63], [1, 2]], 0, [])
    run_episode(model, contender.cache, [Read(with_a_planted_block(block)), ask], hint=contender.hint)
    (scores,) = [scores for moment, scores in found if moment.words is not None]
    assert max(scores, key=lambda number: scores[number]) == block
    assert scores[block] == 1.0
    assert all(0 < score <= 1 for score in scores.values())


@pytest.mark.parametrize("name", LOOKING_AHEAD)
def test_while_text_flows_the_blocks_are_there_before_their_tokens_are(name: str) -> None:
    model = repeating_model()
    contender = make_contender(name, model.spec, MEMORY, model=model)
    seen: list[bool] = []

    def tell(ranges: Any, ahead: Any) -> None:
        contender.hint(ranges, ahead)
        seen.append(9 in shown(contender.cache))

    coming = [*toy_tokens(6, vocab=60, seed=3), 63, 63, 63, 63]
    run_episode(model, contender.cache, [Read(with_a_planted_block(9)), Continue(coming)], hint=tell)
    assert not seen[1]
    assert all(seen[2:])


@pytest.mark.parametrize("name", LOOKING_AHEAD)
def test_questions_asked_of_copies_change_nothing_for_the_text_that_follows(name: str) -> None:
    model = toy()
    text, more = toy_tokens(150, vocab=VOCAB), toy_tokens(20, vocab=VOCAB, seed=5)
    asks = [Ask(toy_tokens(9, vocab=VOCAB, seed=seed), [[1, 2], [3]], 0, []) for seed in (1, 2)]
    parts, found = [Continue(more[:8]), Continue(more[8:])], []
    for steps in ([Read(text), *parts], [Read(text), *asks, parts[0], asks[0], parts[1]]):
        contender = make_contender(name, model.spec, MEMORY, model=model)
        out = run_episode(model, contender.cache, steps, hint=contender.hint)
        found.append(out.nll)
    plain, asked = found
    assert asked[-22:-14] + asked[-12:] == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize("name", LOOKING_AHEAD)
def test_tokens_that_have_come_are_no_longer_ahead_and_with_none_ahead_nothing_is_known(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy()
    asked: list[tuple[list[int], list[int]]] = []
    plain = Shadow.look
    monkeypatch.setattr(
        Shadow,
        "look",
        lambda self, history, ahead, blocks: (
            asked.append((list(history), list(ahead))),
            plain(self, history, ahead, blocks),
        )[1],
    )
    contender = make_contender(name, model.spec, MEMORY, model=model)
    text, prompt = toy_tokens(150, vocab=VOCAB), toy_tokens(11, vocab=VOCAB, seed=1)
    run_episode(model, contender.cache, [Read(text)], hint=contender.hint)
    assert asked == []
    run_episode(model, contender.cache, [Ask(prompt, [[1, 2], [3]], 0, [])], hint=contender.hint)
    assert all(history + ahead == text + prompt + [1, 2] for history, ahead in asked)
    assert len(asked[-1][1]) == 3  # the prompt's last token and the answer


def test_trials_come_at_prompts_ends_and_every_thirty_two_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tried = toy(), []
    plain = Trial.gains
    monkeypatch.setattr(Trial, "gains", lambda self, blocks: (tried.append(self.start + 1), plain(self, blocks))[1])
    contender = make_contender("oracle_swap", model.spec, MEMORY, model=model)
    steps = [Read(toy_tokens(150, vocab=VOCAB)), Continue(toy_tokens(70, vocab=VOCAB, seed=1))]
    run_episode(model, contender.cache, [*steps, Ask([5, 6, 7], [[1, 2], [3]], 0, [])], hint=contender.hint)
    assert tried == [150, 182, 214, 222]
    assert scorers.TRIED_EVERY == 32


@pytest.mark.parametrize("name", LOOKING_AHEAD)
def test_past_the_trained_length_an_oracle_says_that_it_cannot_judge(name: str) -> None:
    model = toy(sequence_len=128)
    contender = make_contender(name, model.spec, MEMORY, model=model)
    steps = [Read(toy_tokens(126, vocab=VOCAB)), Continue([1, 2, 3, 4])]
    with pytest.raises(ConfigError, match=r"no row, because .* trained on"):
        run_episode(model, contender.cache, steps, hint=contender.hint)


def test_the_longest_text_counts_questions_where_they_are_asked() -> None:
    aside, stays = Ask([1] * 5, [[1], [2, 3]], 0, []), Ask([1] * 6, [[1, 2]], 0, [], after=[9], stay=True)
    assert most_tokens([Read([1] * 10), aside, Continue([1] * 3)]) == 17
    assert most_tokens([Read([1] * 10), stays, aside]) == 26
    assert most_tokens([Read([1] * 10), Continue([1] * 30), aside]) == 47


@pytest.mark.parametrize("name", LOOKING_AHEAD)
def test_what_it_computes_is_the_cost_of_its_choice_on_copies_too(name: str) -> None:
    model = toy()
    contender = make_contender(name, model.spec, MEMORY, model=model)
    ask = Ask([5, 6, 7], [[1, 2], [3]], 0, [])
    run_episode(model, contender.cache, [Read(toy_tokens(150, vocab=VOCAB))], hint=contender.hint)
    assert contender.cache.selection_flops == 0
    out = run_episode(model, contender.cache, [ask], hint=contender.hint)
    least = cost_of_reading(model, 0, 150)
    assert contender.cache.selection_flops + out.asking_flops >= (2 if name == "oracle_swap" else 1) * least
