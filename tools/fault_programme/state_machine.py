"""Hypothesis drives a memory on disk and its dictionary (dict_model.py): append, expand, collapse, fork, reopen.

A failing run is told as the shortest one that fails. Needs the development tools.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tools.fault_programme.row import Outcome, Plan

RUNS, STEPS = 200, 50


def run(plan: Plan) -> Outcome:
    from hypothesis import HealthCheck, Phase, seed, settings
    from hypothesis.stateful import run_state_machine_as_test

    outcome, steps = Outcome(), Counter[str]()
    machine = seed(plan.seed)(_machine(plan.fresh("memories"), steps))
    chosen = settings(
        max_examples=plan.count(RUNS),
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(machine, settings=chosen)
    except AssertionError as error:
        notes = "; ".join(note.replace("\n", " ") for note in getattr(error, "__notes__", []))
        outcome.check(f"{error} (seed {plan.seed}): {notes}")
    told = ", ".join(f"{count:,} {name}" for name, count in sorted(steps.items()))
    outcome.said = f"{plan.count(RUNS)} runs of up to {STEPS} steps: {told}"
    return outcome


def _machine(root: Path, steps: Counter[str]) -> type[Any]:
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

    from tools.fault_programme.dict_model import BLOCK, VOCAB, Both, small_model

    model = small_model()
    texts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=14)
    shares = st.floats(0, 1)

    class Memories(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.both = Both(model, Path(tempfile.mkdtemp(dir=root)))

        @rule(tokens=texts)
        def append(self, tokens: list[int]) -> None:
            steps["append"] += 1
            self.both.feed(tokens)

        @rule(tokens=texts, answer=texts)
        def prompt(self, tokens: list[int], answer: list[int]) -> None:
            steps["prompt"] += 1
            self.both.feed(tokens)
            self.both.end_prompt(len(tokens))
            for token in answer[:3]:
                self.both.feed([token])

        @rule(share=shares, token=st.integers(0, VOCAB - 1))
        def expand(self, share: float, token: int) -> None:
            steps["expand"] += 1
            self.both.wish(self._block(share), 1.0)
            self.both.feed([token, token])

        @rule(share=shares, token=st.integers(0, VOCAB - 1))
        def collapse(self, share: float, token: int) -> None:
            steps["collapse"] += 1
            self.both.wish(self._block(share), -1.0)
            self.both.feed([token, token])

        def _block(self, share: float) -> int:
            return int(share * (len(self.both.tokens) // BLOCK))

        @rule(tokens=texts)
        def fork(self, tokens: list[int]) -> None:
            steps["fork"] += 1
            self.both.fork(tokens[:5])

        @rule()
        def reopen(self) -> None:
            steps["reopen"] += 1
            self.both.reopen()

        @invariant()
        def same(self) -> None:
            self.both.check()

        def teardown(self) -> None:
            self.both.check_pages()
            self.both.close()
            shutil.rmtree(self.both.folder)

    return Memories
