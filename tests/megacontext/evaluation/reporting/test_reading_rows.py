"""What is read, what is refused, and what is kept apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_rows import episode, recall_rows, row, write

from megacontext.errors import ConfigError
from megacontext.evaluation.reporting.gaps import gaps
from megacontext.evaluation.reporting.reading import read_files
from megacontext.evaluation.reporting.study import Part, parts_of

RIGHT = {seed: [1.0, 0.0] for seed in range(3)}
TIMED = {"cache": "full", "history_tokens": 1024, "decode_ms_p50": 30.0}


def told(part: Part) -> str:
    return str(gaps(part).blocks)


def test_rows_of_both_commands_come_from_any_file(tmp_path: Path) -> None:
    found = read_files([write(tmp_path / "a.jsonl", [*recall_rows(full=RIGHT), TIMED])])
    assert [one["cache"] for one in found.compared] == ["full"]
    assert found.timed == [TIMED]


def test_of_one_run_the_row_with_the_most_seeds_is_kept(tmp_path: Path) -> None:
    few, all_of_them = (recall_rows(h2o={s: RIGHT[s] for s in range(n)})[0] for n in (1, 3))
    few["run"] = all_of_them["run"]
    found = read_files([write(tmp_path / "a.jsonl", [all_of_them]), write(tmp_path / "b.jsonl", [few])])
    assert [one["seeds"] for one in found.compared] == [3]


def test_splits_are_never_mixed(tmp_path: Path) -> None:
    test = recall_rows(h2o=RIGHT)
    dev = [row("h2o", 512, [episode(10_000, right=[1.0])], split="dev")]
    path = write(tmp_path / "a.jsonl", [*test, *dev])
    assert [one["split"] for one in read_files([path]).compared] == ["test"]
    assert "1 rows of the development split are left out" in read_files([path]).notes[0]
    assert [one["split"] for one in read_files([path], "dev").compared] == ["dev"]
    with pytest.raises(ConfigError, match="--split dev"):
        read_files([write(tmp_path / "b.jsonl", dev)])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no row in 0 lines"),
        (b"hello\n[1]\n", "no row in 2 lines"),
        (b'{"a": 1}\n', "no row in 1 lines"),
        (b"\xff\xfe\x00", "no text"),
        (b'{"task": "t", "cache": "full", "history_tokens": 5}\n', "line 1: a row of another version, without run"),
    ],
)
def test_a_file_that_holds_no_rows_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        read_files([path])


def test_damaged_episodes_are_refused(tmp_path: Path) -> None:
    (bad,) = recall_rows(h2o=RIGHT)
    for damage in ([], None, [{"accuracy": 1.0}], [3], [{"seed": 0, "items": "x"}], [{"seed": 0, "groups": [1]}]):
        with pytest.raises(ConfigError, match=r"a.jsonl, line 1.*; measure it again"):
            read_files([write(tmp_path / "a.jsonl", [{**bad, "per_seed": damage}])])


@pytest.mark.parametrize(
    ("name", "value"),
    [("model", []), ("budget", "x"), ("interval", {"nll": [1.0]}), ("settings", "x"), ("kl", "0"), ("seeds", True)],
)
def test_a_field_of_another_kind_is_named(tmp_path: Path, name: str, value: object) -> None:
    (bad,) = recall_rows(h2o=RIGHT)
    with pytest.raises(ConfigError, match=f"line 1: {name} is "):
        read_files([write(tmp_path / "a.jsonl", [{**bad, name: value}])])


def test_a_damaged_row_of_speed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="decode_ms_p50 is 'fast'"):
        read_files([write(tmp_path / "a.jsonl", [{**TIMED, "decode_ms_p50": "fast"}])])


def test_a_torn_line_is_left_out_and_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", recall_rows(h2o=RIGHT))
    path.write_text(path.read_text() + '{"task": "la', encoding="utf-8")
    found = read_files([path])
    assert len(found.compared) == 1
    assert found.notes == ["a.jsonl: 1 of 2 lines are no rows and left out"]


@pytest.mark.parametrize(
    "changes",
    [{"model": "other"}, {"dtype": "float32"}, {"texts": {"b.txt": "0123"}}, {"private": "ab"}, {"device": "cuda"}],
)
def test_what_cannot_be_compared_is_apart(changes: dict) -> None:
    rows = [row("h2o", 512, [episode(0, right=[1.0])], **more) for more in ({}, changes)]
    one, other = parts_of(rows)
    assert one.setting.heading != other.setting.heading


def test_methods_of_one_name_with_other_settings_have_names_of_their_own() -> None:
    rows = [row("h2o", 512, [episode(0, right=[1.0])], settings=s) for s in ({}, {"recent": 0.5})]
    (part,) = parts_of([*rows, {**rows[0], "run": "again"}])
    labels = [entry.label for entry in part.tasks[0].entries]
    assert len(set(labels)) == 3
    assert "h2o recent=0.5" in labels


def test_controls_come_first_then_ours_then_other_peoples() -> None:
    names = ["quest", "random", "h2o", "megacontext[far_blocks=8]", "lexical", "megacontext", "oracle", "full"]
    (part,) = parts_of(recall_rows(**dict.fromkeys(names, RIGHT)))
    expected = ["full", "oracle", "random", "megacontext", "megacontext[far_blocks=8]", "lexical", "h2o", "quest"]
    assert [entry.label for entry in part.tasks[0].entries] == expected


def test_gaps_are_said() -> None:
    rows = recall_rows(full=RIGHT, random=RIGHT, megacontext=RIGHT, h2o={0: [1.0]})
    other = [row(name, 1024, [episode(0, right=[1.0])], task="passkey") for name in ("megacontext", "quest")]
    (part,) = parts_of([*rows, *other])
    words = told(part)
    assert "late_recall, 6,000 tokens: no row of oracle at 512" in words
    assert "fewer than 3 seeds, so not compared: h2o at 512" in words
    assert "late_recall, 6,000 tokens: nothing at 1,024 slots" in words
    assert "passkey, 6,000 tokens: 1 of 3 seeds, so intervals say little" in words


def test_a_whole_matrix_has_no_gaps() -> None:
    (part,) = parts_of(recall_rows(full=RIGHT, oracle=RIGHT, random=RIGHT, megacontext=RIGHT))
    assert gaps(part).blocks == ["Nothing is missing."]


def test_a_method_that_one_task_lacks_is_named() -> None:
    rows = recall_rows(full=RIGHT, oracle=RIGHT, random=RIGHT, megacontext=RIGHT, quest=RIGHT)
    more = [row(e["cache"], e["budget"], [episode(s, right=[1.0]) for s in range(3)], task="babi") for e in rows[:-1]]
    (part,) = parts_of([*rows, *more])
    assert "babi, 6,000 tokens: at 512 no row of quest" in told(part)


def test_what_was_mixed_is_said() -> None:
    episodes = [episode(seed, right=[1.0], jobs=2, code=f"c{seed}") for seed in range(3)]
    (part,) = parts_of([row("h2o", 512, episodes)])
    assert "3 states of the source: c0, c1, c2" in told(part)
    assert "seconds are no figures of speed" in told(part)
