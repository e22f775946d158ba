from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from megacontext.evaluation.compare import main
from megacontext.evaluation.comparison import matrix
from megacontext.evaluation.comparison.matrix import Work
from megacontext.evaluation.names import ORACLES, all_names

CONFIG = "configs/compare/quick.yaml"
KEYS = [
    *("run", "cache", "task", "model", "dtype", "device", "threads", "texts", "seeds", "history_tokens", "slots"),
    *("accuracy", "nll", "delta_nll", "tokens", "per_seed", "seconds", "config", "budget", "read_slots", "bytes"),
    *("disk_bytes", "selection_flops", "kl", "groups", "settings", "interval", "against", "split", "task_tokens"),
]
ALONE = ["--task", "late_recall", "--no-controls", "--seeds", "1"]
RECENCY = [*ALONE, "--cache", "recency"]


def rows_of(capsys: pytest.CaptureFixture[str], *flags: str) -> list[dict]:
    assert main(["--config", CONFIG, "--json", *flags]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def named(rows: list[dict]) -> list[tuple[str, str]]:
    return [(row["task"], row["cache"]) for row in rows]


def test_one_row_for_each_cache_and_task_and_the_controls_among_them(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(capsys, "--seeds", "1")
    assert named(rows) == [
        ("late_recall", "full"),
        ("late_recall", "oracle"),
        ("late_recall", "random"),
        ("late_recall", "recency"),
        ("plain_text", "full"),
        ("plain_text", "random"),
        ("plain_text", "recency"),
    ]
    assert all(set(KEYS) <= set(row) for row in rows)
    assert all(row["slots"] <= 96 and row["budget"] == 96 for row in rows if row["cache"] != "full")
    assert all(list(row["texts"]) == ["sample.txt"] and len(row["texts"]["sample.txt"]) == 64 for row in rows)
    assert all(row["bytes"] > 0 and row["read_slots"] > 0 and row["split"] == "test" for row in rows)


def test_the_controls_can_be_left_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [row] = rows_of(capsys, *RECENCY)
    assert row["cache"] == "recency"
    rows = rows_of(capsys, *RECENCY, "--cache", "oracle")
    assert [row["cache"] for row in rows] == ["oracle", "recency"]


def test_what_was_added_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", CONFIG, "--task", "late_recall", "--seeds", "1", "--cache", "full"]) == 0
    assert "added oracle, random: every table has them; --no-controls" in capsys.readouterr().err


def test_the_difference_is_counted_from_full_on_the_same_seeds(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, recency = rows_of(capsys, *RECENCY, "--cache", "full", "--seeds", "2")
    assert full["delta_nll"] == 0
    assert recency["delta_nll"] == pytest.approx(recency["nll"] - full["nll"], abs=1e-4)
    seeds = [[one["seed"] for one in row["per_seed"]] for row in (full, recency)]
    assert seeds == [[0, 1], [0, 1]]
    assert recency["accuracy"] == pytest.approx(sum(one["accuracy"] for one in recency["per_seed"]) / 2)
    low, high = recency["interval"]["delta_nll"]
    assert low <= recency["delta_nll"] <= high


def test_a_row_says_how_far_it_is_from_ours(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, recency = rows_of(capsys, *RECENCY, "--cache", "megacontext", "--seeds", "2")
    assert ours["cache"] == "megacontext"
    assert ours["against"] == {}
    low, high = recency["against"]["megacontext"]["accuracy"]
    assert low <= recency["accuracy"] - ours["accuracy"] <= high


def test_every_budget_has_its_rows_and_the_plain_cache_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, *RECENCY, "--cache", "full", "--budget", "128", "--budget", "80")
    assert [(row["cache"], row["budget"]) for row in rows] == [("full", None), ("recency", 80), ("recency", 128)]
    assert rows[1]["slots"] <= 80 < rows[2]["slots"] <= 128


def test_models_are_compared_in_one_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, *RECENCY, "--model", "one.gguf", "--model", "two.gguf")
    assert [row["model"] for row in rows] == ["one", "two"]
    assert rows[0]["run"] != rows[1]["run"]


def test_a_cache_may_carry_changes_and_baselines_stands_for_all(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(matrix.GROUPS, "baselines", ["streaming_llm"])
    rows = rows_of(capsys, *ALONE, "--cache", "megacontext[far_blocks=2]", "--cache", "baselines")
    assert [row["cache"] for row in rows] == ["megacontext[far_blocks=2]", "streaming_llm"]
    assert rows[0]["settings"] == {"far_blocks": 2}


def test_what_a_task_cannot_say_is_null(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [row] = rows_of(capsys, *RECENCY, "--task", "plain_text")[1:]
    assert row["accuracy"] is None
    assert row["delta_nll"] is None
    assert row["interval"]["delta_nll"] is None
    assert row["tokens"] == 1024


def test_the_missing_oracle_of_plain_text_is_explained(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", CONFIG, "--task", "plain_text", "--cache", "oracle", "--json", "--no-controls"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "plain_text: no row for oracle" in said.err


def test_flags_choose_tasks_caches_seeds_and_settings(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [row] = rows_of(capsys, *ALONE, "--cache", "lexical", "--set", "memory.budget=80")
    assert (row["cache"], row["seeds"]) == ("lexical", 1)
    assert 40 < row["slots"] <= 80


def test_own_texts_replace_the_corpus(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "mine.txt").write_text("once upon a time " * 200, encoding="utf-8")
    [row] = rows_of(capsys, "--text", "mine.txt", *RECENCY)
    assert list(row["texts"]) == ["mine.txt"]


def test_a_private_seed_draws_other_cases_and_is_not_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [public] = rows_of(capsys, *RECENCY)
    [private] = rows_of(capsys, *RECENCY, "--private-seed", "grasshopper")
    assert public["private"] is None
    assert public["run"] != private["run"]
    assert public["nll"] != private["nll"]
    assert "grasshopper" not in json.dumps(private)


def test_tuned_settings_are_used_and_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / "configs" / "compare" / "tuned.yaml"
    path.write_text("methods: {recency: [{budget: 90, settings: {protect_first: 2}, score: 0.5, of: 4}]}\n")
    [tuned], [plain] = rows_of(capsys, *RECENCY), rows_of(capsys, *RECENCY, "--untuned")
    assert tuned["settings"] == {"protect_first": 2}
    assert plain["settings"] == {}
    assert tuned["run"] != plain["run"]


def test_without_json_there_is_a_table(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", CONFIG, *RECENCY]) == 0
    said = capsys.readouterr()
    assert "late_recall" in said.out
    assert "accuracy" in said.out
    assert "[1/1, 0 s left]" in said.err
    assert "seed 0" in said.err
    assert "fewer than 3 seeds" in said.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task", "late_recal"], "Did you mean late_recall?"),
        (["--cache", "recensy"], "Did you mean recency?"),
        (["--taks", "late_recall"], "Did you mean --task?"),
        (["--seeds", "0"], "at least 1"),
        (["--set", "memory.bugdet=3"], "memory.budget"),
        (["--set", "chat.temperature=1"], "model or memory"),
        (["--text", "nowhere.txt"], "nowhere.txt"),
        (["--resume"], "--out"),
        (["--budget", "0"], "at least 1"),
        (["--cache", "megacontext[far_blocks"], "name[field=value"),
        (["--seeds", "10000"], "are for --tune"),
        (["--tune", "--private-seed", "word"], "--tune does not see them"),
        (["--budget", "80", "--set", "memory.budget=96"], "name others with --budget"),
    ],
)
def test_wrong_usage_exits_with_two(
    home: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert main(["--config", CONFIG, *flags]) == 2
    assert words in capsys.readouterr().err


def test_a_wrong_task_in_the_file_is_told_with_its_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / CONFIG
    path.write_text(path.read_text().replace("name: plain_text", "name: plane_text"))
    assert main(["--config", CONFIG]) == 2
    said = capsys.readouterr().err
    assert "quick.yaml:6" in said
    assert "Did you mean plain_text?" in said


def test_a_missing_corpus_exits_with_three_and_names_the_command(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "corpus" / "sample.txt").unlink()
    assert main(["--config", CONFIG]) == 3
    assert "python tools/bootstrap_env.py" in capsys.readouterr().err


def test_a_budget_that_cannot_hold_the_ends_exits_with_five_and_leaves_the_others_alone(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*ALONE, "--cache", "lexical", "--cache", "full", "--budget", "40", "--json"]
    assert main(["--config", CONFIG, *flags]) == 5
    said = capsys.readouterr()
    assert "late_recall  40  lexical: memory.budget" in said.err
    assert [json.loads(line)["cache"] for line in said.out.splitlines()] == ["full"]


def test_an_oracle_that_asks_full_attention_has_no_row_past_the_trained_length(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", CONFIG, "--json", *RECENCY, "--cache", "oracle_mass"]) == 2
    out, err = capsys.readouterr()
    assert [json.loads(line)["cache"] for line in out.splitlines()] == ["recency"]
    assert "oracle_mass: no row, because" in err


def test_one_memorys_fault_leaves_the_others_alone(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from megacontext.evaluation.comparison.runner import Runner

    def episode(self: Runner, work: Work) -> dict:
        if work.cell.cache == "recency":
            raise ZeroDivisionError("one over none")
        return whole(self, work)

    whole = Runner.episode
    monkeypatch.setattr(Runner, "episode", episode)
    assert main(["--config", CONFIG, *RECENCY, "--cache", "lexical", "--json"]) == 1
    said = capsys.readouterr()
    assert "late_recall  96  recency: ZeroDivisionError: one over none" in said.err
    assert [json.loads(line)["cache"] for line in said.out.splitlines()] == ["lexical"]


def test_texts_too_short_for_a_task_are_told_before_anything_runs(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "short.txt").write_text("once upon a time " * 50, encoding="utf-8")
    assert main(["--config", CONFIG, "--text", "short.txt"]) == 2
    said = capsys.readouterr()
    assert "give longer texts" in said.err
    assert "late_recall  " not in said.err


def test_all_names_are_in_the_help() -> None:
    from megacontext.evaluation import caches

    where = "megacontext/evaluation/names.py repeats the names of our memories, so that --help needs no torch"
    assert all_names() == caches.CACHES, where
    assert caches.ORACLES == ORACLES, where


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom megacontext.evaluation.compare import main\n"
        "code = main(['--help'])\nsys.exit(code or any(name in sys.modules for name in ('torch', 'pydantic', 'rich')))"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "late_recall_long" in done.stdout
    assert "streaming_llm" in done.stdout


def test_choosing_for_a_question_that_is_asked_of_a_copy_counts(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from megacontext.baselines.streaming_llm import StreamingLLM

    settle = StreamingLLM.settle

    def costly(self: StreamingLLM, model: object) -> None:
        self.selection_flops += 1000 if self.length > 900 else 1  # questions go past the 900 tokens of history
        settle(self, model)

    monkeypatch.setattr(StreamingLLM, "settle", costly)
    full, row = rows_of(capsys, *ALONE, "--cache", "streaming_llm", "--cache", "full")
    assert full["selection_flops"] == 0
    assert row["selection_flops"] > 10 * 1000  # ten questions
