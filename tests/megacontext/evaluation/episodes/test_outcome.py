from __future__ import annotations

import pytest

from megacontext.evaluation.episodes.outcome import Outcome, figures, pieces


def test_an_outcome_without_questions_has_no_accuracy() -> None:
    assert Outcome().accuracy is None
    assert Outcome().mean_nll is None
    assert Outcome(asked=4, right=3, nll=[1.0, 2.0]).accuracy == 0.75


def test_many_figures_of_a_group_are_kept_as_means_of_even_pieces() -> None:
    assert pieces([1.0] * 64) == [1.0] * 64
    values = [float(i) for i in range(130)]
    found = pieces(values)
    assert len(found) == 3
    assert sum(found) / 3 == pytest.approx(sum(values) / 130, abs=0.5)


def test_figures_are_rounded_and_of_two_kinds_of_step() -> None:
    out = Outcome(history=900)
    out.add_answer(True, [0.1, 0.2000004], ("question 1",))
    out.add_text([1.0] * 64 + [3.0], [("old",)])
    found = figures(out)
    assert (found["accuracy"], found["kl"], found["tokens"], found["history_tokens"]) == (1.0, None, 67, 900)
    assert (found["items"], found["item_nll"]) == ([1.0, 1.0, 3.0], [0.15, 1.0, 3.0])
    assert found["groups"] == {"question 1": [1.0], "old": [1.0]}
    assert found["nll"] == round((0.3000004 + 64 + 3) / 67, 5)
