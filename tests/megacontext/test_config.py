from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.config import DemoConfig, FilePath, MemoryConfig, ModelConfig, Section
from megacontext.config_loader import Override, load_config, parse_override, print_config
from megacontext.errors import ConfigError
from megacontext.yaml_loader import MAX_BYTES, parse_scalar, parse_yaml

ROOT = Path(__file__).resolve().parents[2]


def load(tmp_path: Path, text: str, **environ: str) -> DemoConfig:
    file = tmp_path / "test.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(file, environ=environ).config


def refusal(tmp_path: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **environ)
    return str(caught.value)


# --- YAML ---


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("12", 12),
        ("0o17", 15),
        ("017", 17),
        ("0x1F", 31),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("-.inf", float("-inf")),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    assert parse_scalar(text) == value
    assert type(parse_scalar(text)) is type(value)


def test_a_quoted_number_is_text() -> None:
    assert parse_yaml("a: '12'").value == {"a": "12"}


@pytest.mark.parametrize(
    "value", ["h\u00e9 \U0001f600\U0001f600", "\\ud83d\\ude00", "\\\U0001f600", "a/b\tc\n", 1e-5, None]
)
def test_json_is_read_as_json(value: object) -> None:
    assert parse_yaml(json.dumps({"a": value}, indent="\t"), "f.json").value == {"a": value}
    assert parse_yaml("a: \\ud83d\\ude00").value == {"a": "\\ud83d\\ude00"}


def test_values_know_their_lines() -> None:
    assert parse_yaml("a: 1\nb:\n  - x\n  - c: 2\n").lines[("b", 1, "c")] == 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: 2\na: 3", r"f:3: key 'a' stands here and in line 1"),
        ("a: !!python/object:os.system x", "f:1: the tag"),
        ("a: !x 1", "tag"),
        ("--- 1\n--- 2", "second document"),
        ("[" * 200, "nested deeper"),
        ("a: &x 1\nb: [" + "*x, " * 20 + "]", "more than 16 aliases"),
        ("a: &x [*x]", "no finished anchor"),
        ("? [1]\n: 2", "plain word"),
        ("a: [1", "not valid YAML"),
        ("a: \x01", "not valid YAML"),
        ("x" * (MAX_BYTES + 1), "at most"),
    ],
)
def test_what_is_not_strict_is_refused_with_file_and_line(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_yaml(text, "f")


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ConfigError, match="UTF-8"):
        parse_yaml(b"a: \xff", "f")


def test_an_alias_repeats_its_anchor() -> None:
    assert parse_yaml("a: &x [1]\nb: *x").value == {"a": [1], "b": [1]}


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(alphabet="ab:-[]{}&*!|>#'\"\n \t?,%@`1.e", max_size=80)))
def test_any_input_is_parsed_or_refused_in_our_own_words(data: bytes | str) -> None:
    with contextlib.suppress(ConfigError):
        parse_yaml(data, "f")


# --- config ---


def test_every_config_file_of_the_project_builds() -> None:
    assert load_config(ROOT / "configs" / "megacontext_demo.yaml", environ={}).config.memory.budget == 1024


def test_every_setting_is_documented() -> None:
    for section in DemoConfig.model_fields.values():
        for name, field in section.annotation.model_fields.items():
            assert field.description, name


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "").memory == load(tmp_path, "memory:\n").memory == MemoryConfig()


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = tmp_path / "test.yaml"
    file.write_text("memory:\n  budget: 100\n  block: 16\n  seed: 1\n", encoding="utf-8")
    environ = {"MEGACONTEXT_MEMORY_BUDGET": "200", "MEGACONTEXT_MEMORY_BLOCK": "8"}
    loaded = load_config(file, environ=environ, overrides={"memory.budget": Override(300, "flag --budget")})
    memory = loaded.config.memory
    assert (memory.budget, memory.block, memory.seed, memory.read_chunk) == (300, 8, 1, MemoryConfig().read_chunk)
    text = print_config(loaded)
    assert "budget: 300  # flag --budget" in text
    assert "block: 8  # environment MEGACONTEXT_MEMORY_BLOCK" in text
    assert f"seed: 1  # {file}:4" in text


def test_the_printed_config_can_be_read_again(tmp_path: Path) -> None:
    loaded = load_config(ROOT / "configs" / "megacontext_demo.yaml", environ={})
    assert load(tmp_path, print_config(loaded)) == loaded.config


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("memory:\n  budgte: 3\n", "test.yaml:2: unknown key memory.budgte. Did you mean memory.budget?"),
        ("\nmemry:\n  budget: 3\n", "test.yaml:2: unknown key memry. Did you mean memory?"),
        ("chat:\n  budget: 3\n", "test.yaml:2: unknown key chat.budget. Did you mean memory.budget?"),
        ("chat:\n  zzzz: 3\n", "Known: chat.system"),
        ("memory:\n  budget: many\n", 'test.yaml:2: memory.budget: Input should be a valid integer, got "many"'),
        ("memory:\n  budget: '3'\n", "test.yaml:2: memory.budget"),
        ("memory:\n  budget: 0\n", "greater than or equal to 1"),
        ("memory:\n  gist_slots: [1, x]\n", "test.yaml:2: memory.gist_slots.1"),
        ("chat:\n  temperature: .nan\n", "test.yaml:2: chat.temperature"),
        ("model:\n  dtype: int8\n", "test.yaml:2: model.dtype"),
        ("session:\n  name: ../up\n", "test.yaml:2: session.name"),
        ("chat: 3\n", "test.yaml:1: chat"),
        ("- 1\n", "a mapping of sections"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_way_out(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in refusal(tmp_path, text)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, "chat:\n  sed: 3\n  top_k: -1\n").splitlines()) == 2


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    assert "environment MEGACONTEXT_MEMORY_BUDGTE" in refusal(tmp_path, "", MEGACONTEXT_MEMORY_BUDGTE="3")
    assert "environment MEGACONTEXT_MEMORY_BUDGET" in refusal(tmp_path, "", MEGACONTEXT_MEMORY_BUDGET="x")


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    load(tmp_path, "", MEGACONTEXT_ENABLE_WANDB="1", MEGACONTEXT="x", PATH="y")


def test_text_settings_take_their_words_as_they_are() -> None:
    assert parse_override(DemoConfig, "session.name", "007", "flag").value == "007"
    assert parse_override(DemoConfig, "session.name", "null", "flag").value is None
    assert parse_override(DemoConfig, "chat.top_k", "null", "flag").value is None
    assert parse_override(DemoConfig, "memory.gist_slots", "[1, 2]", "flag").value == [1, 2]


def test_paths_in_a_file_count_from_the_project_and_others_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file = tmp_path / "configs" / "deep" / "test.yaml"
    file.write_text("model:\n  path: models/a.gguf\n", encoding="utf-8")
    environ = {"MEGACONTEXT_TELEMETRY_LOG_DIR": "logs"}
    config = load_config(file, environ=environ).config
    assert Path(config.model.path) == tmp_path / "models" / "a.gguf"
    assert Path(config.session.root) == tmp_path / "artifacts" / "sessions"
    assert Path(config.telemetry.log_dir) == tmp_path / "elsewhere" / "logs"


def test_a_missing_config_lists_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"config not found: configs/dmeo.yaml.*Did you mean configs/demo.yaml"):
        load_config("configs/dmeo.yaml")


class OtherConfig(Section):
    """A config of another program: settings outside sections, and the sections it shares."""

    tasks: tuple[str, ...] = ("recall",)
    text: FilePath | None = None
    corpus: FilePath = "corpus.txt"
    model: ModelConfig = ModelConfig()


def test_another_schema_may_have_settings_outside_sections(tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text("tasks: [a, b]\nmodel:\n  path: m.gguf\n", encoding="utf-8")
    overrides = {"tasks": parse_override(OtherConfig, "tasks", "[c]", "flag --tasks")}
    loaded = load_config(file, OtherConfig, environ={}, overrides=overrides)
    assert loaded.config.tasks == ("c",)
    assert Path(loaded.config.corpus).is_absolute()
    assert 'tasks: ["c"]  # flag --tasks' in print_config(loaded)
    file.write_text("taks: [a]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"other.yaml:1: unknown key taks. Did you mean tasks\?"):
        load_config(file, OtherConfig, environ={})


class Entry(Section):
    size: int = 1
    scale: float = 1.0


class NestedConfig(Section):
    """Sections within mappings and lists, one of them optional, one with an underscore in its name."""

    by_name: dict[str, Entry] | None = None
    rows: tuple[Entry, ...] = ()
    entry: Entry | None = None
    my_entry: Entry = Entry()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("by_name:\n  a:\n    sise: 3\n", "n.yaml:3: unknown key by_name.a.sise. Did you mean by_name.a.size?"),
        ("rows:\n  - size: 3\n    scal: 3\n", "n.yaml:3: unknown key rows.0.scal. Did you mean rows.0.scale?"),
        ("entry:\n  zzz: 3\n", "n.yaml:2: unknown key entry.zzz. Known: entry.size, entry.scale."),
        ("by_name:\n  a:\n    size: many\n", "n.yaml:3: by_name.a.size: Input should be a valid integer"),
    ],
)
def test_a_mistake_deep_inside_is_named_as_well(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "n.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(file, NestedConfig, environ={})
    assert reason in str(caught.value)


def test_a_variable_may_name_a_section_with_an_underscore() -> None:
    environ = {"MEGACONTEXT_MY_ENTRY_SIZE": "7", "MEGACONTEXT_ENTRY_SIZE": "8"}
    config = load_config(None, NestedConfig, environ=environ).config
    assert config.my_entry.size == 7
    assert config.entry == Entry(size=8)


def test_an_optional_section_is_absent_until_something_stands_in_it(tmp_path: Path) -> None:
    file = tmp_path / "n.yaml"
    file.write_text("entry:\n", encoding="utf-8")
    loaded = load_config(file, NestedConfig, environ={})
    assert loaded.config.entry is None
    assert "entry: null" in print_config(loaded)
    overrides = {"entry.size": Override(3, "flag --set")}
    loaded = load_config(file, NestedConfig, environ={}, overrides=overrides)
    assert loaded.config.entry == Entry(size=3)
    assert "  size: 3  # flag --set" in print_config(loaded)
