from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from toy_evaluation import library

from megacontext.baselines.registry import TRIALS
from megacontext.config import MemoryConfig
from megacontext.config_loader import load_config
from megacontext.context import WorkingContext
from megacontext.evaluation.caches import CACHES, depends_on, make_contender, settings
from megacontext.evaluation.compare import main
from megacontext.evaluation.comparison.matrix import TEST, CompareConfig, Plan, TaskRun, Work, in_order
from megacontext.evaluation.comparison.runner import Runner
from megacontext.evaluation.comparison.tuning import (
    DEV,
    DEV_SEEDS,
    DEV_WORD,
    Choice,
    Tried,
    Tuned,
    choose,
    load_tuned,
    trials,
    tried_in,
    worth,
    written,
)
from megacontext.evaluation.episodes.steps import Ask, Continue
from megacontext.evaluation.tasks import TASKS, make_task
from megacontext.focus.allocator import FocusAllocator
from megacontext.span import Grid
from megacontext.testing.toy import toy_model

ROOT = Path(__file__).resolve().parents[4]
COMMITTED = ROOT / "configs" / "compare" / "tuned.yaml"
FLAGS = ["--config", "configs/compare/quick.yaml", "--task", "late_recall", "--seeds", "1", "--tune"]


def plan(**changes: object) -> Plan:
    runs = tuple(TaskRun(name=name) for name in TASKS)
    return replace(Plan(("model",), (512, 1024), CACHES, runs), **changes)


@pytest.mark.parametrize("name", [name for name in CACHES if name != "full"])
def test_every_method_has_as_many_trials_and_its_own_defaults_first(name: str) -> None:
    found = trials(name)
    assert len(found) == TRIALS
    assert found[0] == {}
    memory = MemoryConfig(budget=512)
    assert len({json.dumps(depends_on(name, memory, one), default=str) for one in found}) == TRIALS


@pytest.mark.parametrize("name", ["megacontext", "oracle", "gists_only"])
def test_our_trials_are_different_memories_at_a_prompts_end(name: str) -> None:
    shown = set()
    for trial in trials(name):
        config = settings(name, MemoryConfig().model_copy(update=dict(trial)))
        assert config is not None
        context = WorkingContext(config.budget, Grid(config.block), tail=8000)
        shown.add((FocusAllocator.of(config).recent_start(context, sharp=True), config.prompt_blocks))
    assert len(shown) == TRIALS


@pytest.mark.parametrize("name", ["recency", "megacontext", "random"])
def test_our_trials_are_settings_that_there_are(name: str) -> None:
    spec = toy_model("G4", sequence_len=2048).spec
    for trial in trials(name):
        cache = make_contender(name, spec, MemoryConfig(budget=512), tuned=trial).cache
        assert all(getattr(cache.config, key) == value for key, value in trial.items() if key != "recent_tokens")


def test_test_seeds_never_touch_tuning() -> None:
    test, dev = plan().cells(), plan(dev=True).cells()
    assert {seed for cell in test for seed in cell.seeds}.isdisjoint(seed for cell in dev for seed in cell.seeds)
    assert all(cell.split == TEST and max(cell.seeds) < DEV_SEEDS and cell.task.private == "" for cell in test)
    assert all(cell.split == DEV and min(cell.seeds) == DEV_SEEDS and cell.task.private == DEV_WORD for cell in dev)


def test_no_file_can_name_a_seed_of_the_development_split() -> None:
    with pytest.raises(ValueError, match="less than 10000"):
        TaskRun(name="late_recall", seeds=DEV_SEEDS + 1)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.tokens < 10_000])
def test_no_episode_of_the_development_split_is_one_of_the_test_split(name: str) -> None:
    books = library(6, 12_000)
    task = make_task(name)
    dev = replace(task, private=DEV_WORD)

    def scored(steps: list) -> set[str]:
        """What is asked, or scored as running text."""
        return {str(step.tokens) for step in steps if isinstance(step, Continue)} or {
            str(step) for step in steps if isinstance(step, Ask)
        }

    seen = set().union(*(scored(task.steps(books, seed)) for seed in range(4)))
    assert seen.isdisjoint(scored(dev.steps(books, DEV_SEEDS)) | scored(dev.steps(books, DEV_SEEDS + 1)))


def test_the_best_trial_wins_and_of_equals_the_first() -> None:
    tried = [
        Tried("a", 512, {}, [0.5, 0.7]),
        Tried("a", 512, {"x": 1}, [0.9, 0.5]),
        Tried("a", 512, {"x": 2}, [0.8, 0.6]),
        Tried("a", 1024, {}, [0.5]),
        Tried("b", 512, {}, [0.5]),
    ]
    best = choose(tried)
    assert {name: [(c.budget, c.settings) for c in found] for name, found in best.methods.items()} == {
        "a": [(512, {"x": 1}), (1024, {})],
        "b": [(512, {})],
    }
    assert best.methods["a"][0].of == 3


def test_settings_are_those_of_the_nearest_budget() -> None:
    choices = tuple(Choice(budget=b, settings={"slots": [b, 1]}, score=1, of=4) for b in (512, 2048))
    tuned = Tuned(methods={"quest": choices})
    assert tuned.of("quest", 700) == {"slots": (512, 1)}
    assert tuned.of("quest[page=8]", 4000) == {"slots": (2048, 1)}
    assert tuned.of("quest", None) == tuned.of("h2o", 512) == {}


def test_a_variant_of_ours_without_a_choice_of_its_own_has_ours() -> None:
    choices = tuple(Choice(budget=512, settings={"slots": slots}, score=1, of=4) for slots in (1, 2))
    ours = Tuned(methods={"megacontext": choices[:1], "gists": choices[1:]})
    assert ours.of("lexical", 512) == ours.of("oracle", 512) == ours.of("megacontext[far_blocks=8]", 512) != {}
    assert ours.of("gists", 512) != ours.of("lexical", 512)
    assert ours.of("recency", 512) == ours.of("quest", 512) == ours.of("full", None) == {}


def test_a_file_of_choices_reads_back_as_it_was(tmp_path: Path) -> None:
    choice = Choice(budget=512, settings={"a": [1, 2], "b": "c", "d": None, "e": 0.5}, score=0.25, of=4)
    path = tmp_path / "tuned.yaml"
    for tuned in (Tuned(methods={"quest": (choice,)}), Tuned()):
        path.write_text(written(tuned), encoding="utf-8")
        assert load_tuned(path) == tuned


def row(**changes: object) -> dict:
    base = {"split": DEV, "cache": "h2o", "budget": 512, "settings": {}, "task": "t", "task_tokens": 100, "seeds": 2}
    return {**base, "accuracy": 0.5, "delta_nll": 0.1, **changes}


def test_a_trial_counts_when_it_ran_to_the_end_on_every_task() -> None:
    rows = [
        *(row(), row(task="u", accuracy=None)),
        *(row(settings={"x": 1}), row(settings={"x": 1}, task="u", seeds=1)),  # one episode failed
        row(settings={"x": 2}),  # one task failed
        *(row(split=TEST, settings={"x": 3}), row(split=TEST, settings={"x": 3}, task="u")),
        row(cache="full", budget=None),
    ]
    [one] = tried_in(rows)
    assert (one.name, one.settings) == ("h2o", {})
    assert one.score == pytest.approx((0.5 + 0.904837) / 2)


def test_what_cannot_be_judged_is_no_score() -> None:
    assert worth(row(accuracy=None, delta_nll=None)) is None


def test_tuning_writes_the_best_settings_and_comparisons_take_them(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Runner.episode

    def episode(self: Runner, work: Work) -> dict:
        assert work.seed >= DEV_SEEDS
        found = whole(self, work)
        return {**found, "accuracy": 1.0 if work.cell.tuned.get("protect_first") == 2 else 0.5}

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "episode", episode)
        assert main([*FLAGS, "--cache", "recency", "--json"]) == 0
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [(row["cache"], row["split"]) for row in rows] == [("full", DEV), *[("recency", DEV)] * TRIALS]
    assert [one["seed"] for row in rows for one in row["per_seed"]] == [DEV_SEEDS] * 5
    path = home / "configs" / "compare" / "tuned.yaml"
    assert load_tuned(path).of("recency", 96) == {"protect_first": 2}
    assert f"{path}: settings of recency" in said.err


def test_other_choices_in_the_file_stay(tmp_path: Path) -> None:
    from megacontext.evaluation.comparison.tuning import keep_best

    path = tmp_path / "configs" / "tuned.yaml"
    keep_best([row(cache="tova"), row(budget=1024)], path)
    keep_best([row(settings={"x": 1})], path)
    found = load_tuned(path).methods
    assert {name: [(c.budget, c.settings) for c in choices] for name, choices in found.items()} == {
        "h2o": [(512, {"x": 1}), (1024, {})],
        "tova": [(512, {})],
    }


def test_what_is_committed_is_among_the_trials() -> None:
    for name, choices in load_tuned(COMMITTED).methods.items():
        assert name in CACHES, f"{COMMITTED.name} names {name}, which is not there any more"
        for choice in choices:
            declared = [json.loads(json.dumps(settings)) for settings in trials(name)]
            assert choice.settings in declared, f"{name}: tune it again, {choice.settings} is no trial of it"


def test_every_method_is_tuned_by_the_file_for_it() -> None:
    from megacontext.evaluation.comparison.matrix import ordered

    config = load_config(ROOT / "configs" / "compare" / "tuning.yaml", CompareConfig, environ={}).config
    missing = set(CACHES) - set(ordered(config.caches, controls=False)) - {"full"}
    assert not missing


def test_trials_of_one_text_run_in_a_row() -> None:
    cells = plan(dev=True, caches=("full", "recency"), budgets=(512,)).cells()
    works = in_order(cells)
    texts = [(work.seed, work.cell.task.name) for work in works]
    assert len(dict.fromkeys(texts)) == sum(1 for a, b in zip([None, *texts], texts, strict=False) if a != b)
