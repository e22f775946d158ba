"""Contenders by name, and what a name may carry."""

from __future__ import annotations

import pytest
from toy_evaluation import ToyText

from megacontext.baselines.registry import METHODS, TRIALS
from megacontext.config import MemoryConfig
from megacontext.context import WorkingContext
from megacontext.errors import ConfigError
from megacontext.evaluation.caches import CACHES, LOOKING_AHEAD, depends_on, make_contender, settings, split_name
from megacontext.focus.allocator import FocusAllocator
from megacontext.span import Grid
from megacontext.testing.toy import toy_model

DEMO = MemoryConfig()
MEMORY = MemoryConfig(budget=640, block=16, recent_tokens=64, prompt_recent_tokens=64, far_blocks=4, gist_budget=64)


def test_a_name_may_carry_changes():
    changes = {"far_blocks": 8, "gist_slots": (1, 0, 0, 0), "mode": "exact", "prompt_fill": True}
    assert split_name("megacontext[far_blocks=8, gist_slots=(1,0,0,0),mode=exact,prompt_fill=true]") == (
        "megacontext",
        changes,
    )
    assert split_name("full") == ("full", {})


@pytest.mark.parametrize("name", ["megacontext[far_blocks]", "megacontext[", "Mega Context", "megacontext[=3]"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ConfigError, match="cache"):
        split_name(name)


def test_changes_become_settings():
    config = settings("lexical[far_blocks=2]", MEMORY)
    assert config is not None
    assert (config.scorer, config.far_blocks, config.budget) == ("lexical", 2, 640)


@pytest.mark.parametrize("name", ["megacontext[far_blokcs=2]", "megacontext[far_blocks=-1]", "streaming_llm[sink=3]"])
def test_a_setting_that_is_not_there_is_named(name):
    with pytest.raises(ConfigError, match=name.partition("[")[2].partition("=")[0]):
        make_contender(name, toy_model(sequence_len=1024).spec, MEMORY)


@pytest.mark.parametrize("name", CACHES)
def test_every_name_makes_an_empty_memory(name):
    model = toy_model("G4", sequence_len=1024)
    contender = make_contender(name, model.spec, MEMORY, text=ToyText(), model=model)
    assert contender.cache.length == 0
    assert contender.stride >= 1
    assert (contender.budget is None) == (name == "full")


@pytest.mark.parametrize("tuned", [{}, {"prompt_recent_tokens": 0}, {"prompt_recent_tokens": 256}])
@pytest.mark.parametrize("changes", ["", "[prompt_recent_tokens=704]", "[block=64]", "[budget=2048]", "[budget=512]"])
def test_an_oracle_has_all_places_beside_the_recent_part_that_the_others_have(changes, tuned):
    memory = DEMO.model_copy(update=tuned)
    oracle, ours = (settings(f"{name}{changes}", memory) for name in ("oracle", "megacontext"))
    context = WorkingContext(ours.budget, Grid(ours.block), tail=8000)
    starts = [FocusAllocator.of(config).recent_start(context, sharp=True) for config in (oracle, ours)]
    assert starts[0] == starts[1]
    recent = max(ours.recent_tokens, ours.prompt_recent_tokens)
    assert oracle.prompt_blocks == max((ours.budget - recent) // ours.block - 4, ours.prompt_blocks)
    assert depends_on(f"oracle{changes}", DEMO, tuned)["prompt_blocks"] == oracle.prompt_blocks


def test_an_oracle_may_be_told_how_many_blocks_it_shows():
    assert settings("oracle[prompt_blocks=2]", DEMO).prompt_blocks == 2


@pytest.mark.parametrize("name", LOOKING_AHEAD)
def test_an_oracle_that_looks_ahead_is_refused_without_its_model(name):
    with pytest.raises(ConfigError, match=f"{name}: this oracle asks the model"):
        make_contender(name, toy_model("G4", sequence_len=1024).spec, MEMORY)


def test_settings_go_over_the_defaults_and_changes_over_both():
    spec = toy_model("G4", sequence_len=1024).spec
    assert make_contender("streaming_llm", spec, MEMORY, tuned={"sinks": 9}).cache.sinks == 9
    assert make_contender("streaming_llm[sinks=3]", spec, MEMORY, tuned={"sinks": 9}).cache.sinks == 3
    assert make_contender("megacontext", spec, MEMORY, tuned={"far_blocks": 3}).cache.config.far_blocks == 3


def test_what_a_row_depends_on_tells_settings_apart():
    told = [depends_on(name, MEMORY) for name in ("streaming_llm", "streaming_llm[sinks=3]", "lexical", "random")]
    assert len({str(one) for one in told}) == len(told)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_as_many_trials_and_the_papers_own_first(name):
    trials = METHODS[name].trials
    assert len(trials) == TRIALS
    assert trials[0] == {}
    assert len({str(sorted(trial.items())) for trial in trials}) == TRIALS
