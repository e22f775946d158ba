"""LexicalScorer: what words ask for, while text flows and at a prompt's end."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest
from scorer_scene import BLOCK, Scene

from megacontext.errors import StoreError
from megacontext.focus.lexical.archive import Archive
from megacontext.focus.lexical_scorer import LexicalScorer, flowing_kernel
from megacontext.focus.lexical_store import LexicalStore
from megacontext.models.vocabulary import vocabulary_of
from megacontext.testing.lexical_index import LexicalIndex
from megacontext.testing.toy import ToyWords


@pytest.mark.parametrize("nearness", [0, 40])
def test_the_lexical_scorer_weighs_what_is_asked_and_nearness_while_text_flows(nearness):
    scorer = LexicalScorer(BLOCK, nearness=nearness)
    moment = Scene(scorer, 40).moment(far_end=35)
    index = LexicalIndex(BLOCK)
    index.add(moment.tree.tokens(0, 163))
    worth = dict(zip(*map(np.ndarray.tolist, index.scores(flowing_kernel())), strict=True))
    near = range(3, 35) if nearness else ()
    expected = {n: worth.get(n, 0) + nearness / (163 - n * BLOCK) for n in {*worth, *near} if n < 35}
    assert scorer.score(moment) == pytest.approx({n: total / (total + 1) for n, total in expected.items()})


def test_nothing_is_named_for_nearness_that_history_does_not_have():
    scorer = LexicalScorer(BLOCK, nearness=40)
    scores = scorer.score(Scene(scorer, 6).moment(far_end=4))
    assert set(scores) == {0, 1, 2, 3}
    assert sorted(scores, key=scores.__getitem__)[-1] == 3


def test_what_is_asked_for_now_is_not_drowned_by_what_was_followed_for_long():
    index = LexicalStore(8, edge=0)
    once, followed = list(range(1, 9)), list(range(11, 27))
    index.add([*once, *followed, *range(30, 46), *followed])
    assert len(index.scores(flowing_kernel())[0])
    index.add(once[:5])
    blocks, asked = index.scores(flowing_kernel())
    assert blocks[asked.argmax()] == 0


def test_what_tokens_ask_for_fades_and_those_to_come_ask_alike():
    expected = [0.8**age for age in range(24)]
    assert flowing_kernel().tolist() == pytest.approx([weight / sum(expected) for weight in expected])
    ahead = flowing_kernel(ahead=32)
    assert len(ahead) == 31 + 24
    assert ahead.sum() == pytest.approx(1)
    assert ahead[:32].tolist() == [ahead[0]] * 32


def test_at_a_prompts_end_only_its_words_vote():
    scorer = LexicalScorer(BLOCK)
    scene = Scene(scorer, 50)
    scene.tokens[190:194] = scene.tokens[20:24]
    scene.tokens[195:199] = scene.tokens[80:84]
    moment = scene.moment((190, 194), far_end=45)
    scores = scorer.score(moment)
    assert max(scores, key=scores.__getitem__) in (5, 6)
    scores = scorer.score(moment._replace(words=(195, 199)))
    assert max(scores, key=scores.__getitem__) in (20, 21)


def test_tokens_that_wait_to_be_indexed_are_heard_when_somebody_asks():
    one, other = LexicalScorer(BLOCK), LexicalScorer(BLOCK)
    moment = Scene(one, 50).moment(far_end=45)
    for token in moment.tree.tokens(0, len(moment.tree)):
        other.observe([token])
    twin = other.copy()
    assert one.score(moment) == other.score(moment) == twin.score(moment) != {}
    for scorer in (one, other, twin):
        scorer.observe([7])
        scorer.expect([8])
    assert one.score(moment) == other.score(moment) == twin.score(moment)


@pytest.mark.parametrize("last", [5, 70])
def test_tokens_that_the_index_could_not_take_wait_for_the_next_one_who_asks(monkeypatch, last):
    one, other = LexicalScorer(BLOCK), LexicalScorer(BLOCK)
    moment = Scene(one, 50).moment(far_end=45)
    tokens = moment.tree.tokens(0, len(moment.tree))
    other.observe(tokens[:-last])
    with monkeypatch.context() as broken:
        broken.setattr(Archive, "look_up", Mock(side_effect=StoreError("damaged")))
        other.observe(tokens[-last:])
        with pytest.raises(StoreError, match="damaged"):
            other.score(moment)
    assert one.score(moment) == other.score(moment)


def test_all_votes_that_a_prompt_asks_for_are_counted():
    scorer = LexicalScorer(BLOCK)
    scene = Scene(scorer, 50)
    scene.tokens[190:194] = scene.tokens[20:24]
    moment = scene.moment((190, 194), far_end=45)
    scores = scorer.score(moment)
    assert scorer.flops == 2 * scorer._current().weighed > 0
    before = scorer.flops
    scorer.follow(moment, scores)
    assert scorer.flops == 2 * scorer._current().weighed > before


def test_a_question_mark_does_not_ask_for_the_same_question():
    words, mark = [f"word-{n}" for n in range(63)], 63
    told, asked = [51, 52, 53, 54, 55], [51, 52, 53, 54, mark]
    found = []
    for ends in ("?", "word-63"):
        scorer = LexicalScorer(BLOCK, vocabulary=vocabulary_of(ToyWords([*words, ends])))
        scene = Scene(scorer, 50)
        scene.tokens = [token % 40 for token in scene.tokens]
        scene.tokens[20:25], scene.tokens[100:105], scene.tokens[190:195] = told, asked, asked
        moment = scene.moment((190, 195), far_end=45)
        found.append([scorer.score(moment), scorer.score(moment._replace(words=(190, 194)))])
    (asked_so, without), (as_word, _) = found
    assert asked_so == without
    assert as_word != without


def test_a_lexical_scorer_brought_back_scores_as_one_that_never_stopped(tmp_path):
    scorer = LexicalScorer(BLOCK, folder=tmp_path, fingerprint="bytes")
    moment = Scene(scorer, 5000).moment(far_end=4900)
    tokens, kept = moment.tree.tokens(0, len(moment.tree)), list(tmp_path.glob("*.lex"))
    assert kept, "the scene is too short for a file"
    again = LexicalScorer(BLOCK, folder=tmp_path, fingerprint="bytes")
    assert (again.nbytes, again.score(moment), again.state()) == (0, {}, {})
    assert again.copy().score(moment) == {}
    again.restore(scorer.state(), moment.tree)
    assert again.score(moment) == scorer.score(moment) != {}
    twin = again.copy()
    for each in (scorer, again, twin):
        each.observe(tokens[100:140])
    assert again.score(moment) == scorer.score(moment) == twin.score(moment)
    assert list(tmp_path.glob("*.lex")) == kept
    LexicalScorer(BLOCK, folder=tmp_path, fingerprint="bytes").observe([1])
    assert not list(tmp_path.glob("*.lex")), "history begins"
