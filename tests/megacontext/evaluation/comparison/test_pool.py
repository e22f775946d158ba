from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from megacontext.errors import BudgetError, MegaContextError
from megacontext.evaluation.comparison.pool import in_turn, side_by_side


class Squares:
    """Work is a number. 3 cannot be, 4 is a bug, 5 ends its process, 6 takes long."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def episode(self, work: int) -> int:
        if self.folder:
            (self.folder / f"{work}").write_text(str(os.getpid()))
        if work == 3:
            raise BudgetError("three is too few")
        if work == 4:
            raise ZeroDivisionError("four")
        if work == 5:
            os._exit(9)
        if work == 6:
            time.sleep(600)
        return work * work


def outcomes(found) -> dict[int, object]:
    return {done.work: done.found if done.error is None else type(done.error) for done in found}


def test_one_after_the_other_in_this_process(tmp_path: Path) -> None:
    found = list(in_turn(Squares(tmp_path), [2, 3, 4, 1]))
    assert [done.work for done in found] == [2, 3, 4, 1]
    assert outcomes(found) == {2: 4, 3: BudgetError, 4: ZeroDivisionError, 1: 1}
    assert (tmp_path / "2").read_text() == str(os.getpid())


def test_side_by_side_comes_to_the_same_in_other_processes(tmp_path: Path) -> None:
    works = [2, 3, 4, 1, 7, 8]
    assert outcomes(side_by_side(Squares(tmp_path), works, 2)) == outcomes(in_turn(Squares(), works))
    assert str(os.getpid()) not in {path.read_text() for path in tmp_path.iterdir()}


def test_a_process_that_ends_is_an_error_with_a_way_out() -> None:
    with pytest.raises(MegaContextError, match="fewer --jobs take less, and --resume goes on"):
        list(side_by_side(Squares(), [5, 1], 1))


def test_whoever_stops_listening_waits_for_nothing(tmp_path: Path) -> None:
    found = side_by_side(Squares(tmp_path), [1, 6, 2], 2)
    next(found)
    while not (tmp_path / "6").exists():
        time.sleep(0.02)
    started = time.monotonic()
    found.close()
    assert time.monotonic() - started < 60
