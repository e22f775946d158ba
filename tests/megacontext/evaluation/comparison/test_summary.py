from __future__ import annotations

import json

import pytest

from megacontext.evaluation.comparison.rows import for_table, line, print_table
from megacontext.evaluation.comparison.summary import summarise


def episode(seed: int, items: list[float], losses: list[float], **changes: object) -> dict:
    """One of questions."""
    return {
        **{"seed": seed, "accuracy": sum(items) / len(items), "nll": sum(losses) / len(losses), "kl": None},
        **{"items": items, "item_nll": losses, "groups": {"question 1": items[:1]}, "tokens": 4 * len(items)},
        **{
            "history_tokens": 100 + seed,
            "slots": 64,
            "read_slots": 60 - seed,
            "bytes": 5000 + seed,
            "seconds": 1.5,
            "cpu_seconds": 2.5,
        },
        **{"disk_bytes": None, "selection_flops": 7, **changes},
    }


FULL = [episode(0, [1.0, 1.0], [0.1, 0.2]), episode(1, [1.0, 0.0], [0.3, 0.4])]
OURS = [episode(1, [0.0, 0.0], [1.3, 1.4]), episode(0, [1.0, 0.0], [0.6, 1.2])]


def test_means_count_every_episode_the_same_and_sizes_are_the_largest() -> None:
    row = summarise(OURS, {"per_seed": FULL})
    assert [one["seed"] for one in row["per_seed"]] == [0, 1]
    assert (row["seeds"], row["tokens"], row["seconds"]) == (2, 16, 3.0)
    assert (row["history_tokens"], row["slots"], row["read_slots"], row["bytes"]) == (101, 64, 60, 5001)
    assert row["disk_bytes"] is None
    assert row["accuracy"] == 0.25
    assert row["nll"] == pytest.approx((0.9 + 1.35) / 2)
    assert row["delta_nll"] == pytest.approx((0.75 + 1.0) / 2)
    assert row["kl"] is None
    assert row["groups"] == {"question 1": 0.5}


def test_intervals_hold_the_means_and_are_paired_where_rows_are_compared() -> None:
    row = summarise(OURS, {"per_seed": FULL}, megacontext={"per_seed": FULL})
    for name in ("accuracy", "nll", "delta_nll"):
        low, high = row["interval"][name]
        assert low <= row[name] <= high
    low, high = row["against"]["megacontext"]["accuracy"]
    assert low <= 0.25 - 0.75 <= high <= 0
    low, high = row["against"]["megacontext"]["nll"]
    assert 0.5 <= low <= high <= 1.0  # the differences are 0.5, 1.0, 1.0 and 1.0


def test_running_text_has_no_share_of_right_answers() -> None:
    text = [episode(seed, [2.0, 3.0], [2.0, 3.0], accuracy=None) for seed in range(3)]
    row = summarise(text, None, megacontext={"per_seed": text})
    assert row["interval"]["accuracy"] is None
    assert row["interval"]["delta_nll"] is None
    assert row["against"]["megacontext"] == {"accuracy": None, "nll": [0.0, 0.0]}


def test_a_seed_that_the_other_row_lacks_does_not_count_in_the_difference() -> None:
    row = summarise(OURS, {"per_seed": FULL[:1]})
    assert row["delta_nll"] is None
    assert [one["delta_nll"] for one in row["per_seed"]] == [0.75, None]
    assert row["interval"]["delta_nll"] == pytest.approx([0.5, 1.0])


def test_a_row_is_the_same_after_json() -> None:
    row = summarise(OURS, {"per_seed": FULL}, megacontext={"per_seed": FULL})
    assert json.loads(line(row)) == row


def test_a_table_shows_intervals_and_millions_of_bytes() -> None:
    shown = for_table({"bytes": 12_345_678, "interval": {"accuracy": [0.5, 1.0], "nll": None}})
    assert (shown["megabytes"], shown["accuracy_interval"], shown["nll_interval"]) == ("12.3", "0.50 .. 1.00", None)


def test_what_a_name_carries_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"task": "t", "cache": "megacontext[far_blocks=8]", "nll": 1.0}], {"nll": "NLL"})
    assert "megacontext[far_blocks=8]" in capsys.readouterr().out
