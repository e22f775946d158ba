"""What is hidden, and what is not: hiding too much makes a log worthless."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.telemetry.events import Error, Tick, Turn
from megacontext.telemetry.scrub import known_secrets, scrub, scrub_event

SECRET = "s3cret-value"


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "WANDB_API_KEY", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY", "OPENAI_APIKEY", "APP_SECRET", "SMTP_PASS"],
)
def test_values_of_secret_variables_are_hidden_inside_longer_texts(name: str) -> None:
    assert scrub(f"at https://x/{SECRET}/y", {name: SECRET}) == "at https://x/***/y"


@pytest.mark.parametrize("environ", [{"HF_TOKEN": "1"}, {"API_KEY": "abc"}, {"X_TOKEN": ""}, {"MAX_TOKENS": "100000"}])
def test_short_values_and_counts_are_not_searched_for(environ: dict[str, str]) -> None:
    text = "1 abc 100000"
    assert scrub(text, environ) == text


@pytest.mark.parametrize("name", ["PWD", "PATH", "HOME", "TOKENIZERS_PARALLELISM", "KEYBOARD", "MONKEY"])
def test_other_variables_are_no_secrets(name: str) -> None:
    assert scrub("say false-or-true", {name: "false-or-true"}) == "say false-or-true"


@given(st.text(min_size=6, max_size=20).filter(lambda text: len(text.strip()) >= 6))
def test_a_secret_is_hidden_however_it_is_quoted(secret: str) -> None:
    for text in (secret, repr(secret), json.dumps(secret), f"<{secret}>"):
        assert secret.strip() not in scrub(text, {"DB_PASSWORD": secret})


def test_the_longer_of_two_secrets_goes_first() -> None:
    assert scrub("abcdef-more", {"A_TOKEN": "abcdef", "B_TOKEN": "abcdef-more"}) == "***"


def test_settings_are_hidden_by_name() -> None:
    config = {
        "apiKey": "k",
        "password": 12345,
        "api_keys": ["a", "b"],
        "credentials": {"user": "u", "password": "p"},
        "max_tokens": 12,
        "recent_tokens": "288",
        "token": None,
        "tokenizer": "gpt2",
        "key": False,
    }
    assert scrub(config, {}) == {
        "apiKey": "***",
        "password": "***",
        "api_keys": ["***", "***"],
        "credentials": {"user": "u", "password": "***"},
        "max_tokens": 12,
        "recent_tokens": "288",
        "token": None,
        "tokenizer": "gpt2",
        "key": False,
    }


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Authorization: Bearer abcdefgh12345", "Authorization: Bearer ***"),
        ("'Authorization': 'Basic dXNlcjpwYXNz'", "'Authorization': 'Basic ***'"),
        ("curl -H bearer abcdefgh12345", "curl -H bearer ***"),
        ("https://user:pass@host/x", "https://user:***@host/x"),
        ("GET /x?a=1&token=abc&b=2", "GET /x?a=1&token=***&b=2"),
        ("run --wandb-api-key=abc -p x", "run --wandb-api-key=*** -p x"),
        ("run --token abcdefghij", "run --token ***"),
        ("token hf_abcdefghijklmnop1234", "token ***"),
        ("AKIAABCDEFGHIJKLMNOP", "***"),
    ],
)
def test_credentials_are_known_by_their_form(text: str, clean: str) -> None:
    assert scrub(text, {}) == clean


@pytest.mark.parametrize(
    "text",
    [
        "unknown flag --token. Did you mean --top-k?",
        "hf_hub_download() takes 2 arguments",
        "chat.max_tokens: must be at least 1, got 0",
        "the bearer of news",
        "http://host:8080/path",
        "tokens=12, key=value, token: 'Hello world'",
        "HF_HUB_ENABLE_HF_TRANSFER is set",
        "mail a@b.example at https://x/y",
        "/models/SmolLM2-135M-Instruct.Q4_1.gguf: no such file",
    ],
)
def test_plain_words_stay(text: str) -> None:
    assert scrub(text, {}) == text


def test_what_is_neither_text_nor_number_becomes_text() -> None:
    assert scrub({"path": Path("a") / SECRET, "n": 1.5}, {"HF_TOKEN": SECRET})["path"].endswith("***")


def test_an_event_keeps_its_numbers() -> None:
    secrets = known_secrets({"HF_TOKEN": SECRET})
    turn = Turn(turn=1, prompt_tokens=5, generated_tokens=6, history_tokens=7, stop="stop", notes=f"by {SECRET}")
    clean = scrub_event(turn, secrets)
    assert isinstance(clean, Turn)
    assert (clean.prompt_tokens, clean.notes) == (5, "by ***")
    assert scrub_event(Error(kind="X", message=SECRET), secrets) == Error(kind="X", message="***")
    assert scrub_event(Tick(tick=1), secrets) == Tick(tick=1)
