"""The tokenizer: ids, training, rendering. Files are in test_tokenizer_files."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.tokenizer import (
    SPECIAL_TOKENS,
    SPLIT_PATTERN,
    RustBPETokenizer,
    count_token_bytes,
    get_token_bytes,
    get_tokenizer,
)

TEXTS = ["The cat sat on the mat; it's 12345 o'clock.\n\n  a=1+22*333;\n", "naïve café 你好 🙂 <|bos|>"] * 5


@pytest.fixture(scope="module")
def tokenizer() -> RustBPETokenizer:
    return RustBPETokenizer.train_from_iterator(iter(TEXTS), 300)


def test_specials_come_after_the_ordinary_tokens_in_upstreams_order(tokenizer):
    ids = [tokenizer.encode_special(name) for name in SPECIAL_TOKENS]
    assert ids == list(range(300 - 9, 300))
    assert tokenizer.get_bos_token_id() == 291
    assert tokenizer.get_vocab_size() == 300
    assert tokenizer.get_special_tokens() == set(SPECIAL_TOKENS)


def test_bytes_are_the_first_ids_and_merges_follow_without_a_gap(tokenizer):
    ranks = tokenizer.enc._mergeable_ranks
    assert all(ranks[bytes([byte])] == byte for byte in range(256))
    assert sorted(ranks.values()) == list(range(291))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("12345", ["12", "34", "5"]),
        ("it's", ["it", "'s"]),
        ("a=1+22*333;\n", ["a", "=", "1", "+", "22", "*", "33", "3", ";\n"]),
        ("\n\n  x", ["\n\n", " ", " x"]),
    ],
)
def test_text_is_split_where_the_contract_says(text, pieces):
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    assert [piece for piece, _ in split.pre_tokenize_str(text)] == pieces


def test_tiktoken_gives_the_ids_that_the_trainer_meant(tokenizer):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    oracle = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    oracle.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    oracle.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=291, initial_alphabet=alphabet, show_progress=False)
    )
    for text in [*TEXTS, "the theme of other cats", "1 22 333 ... ?!"]:
        merged = [i for i in oracle.encode(text).ids if i >= 256]
        assert [i for i in tokenizer.encode(text) if i >= 256] == merged


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_comes_back_and_never_holds_a_special(text):
    tokenizer = _trained()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(i < 291 for i in ids)


def _trained(made: list[RustBPETokenizer] = []) -> RustBPETokenizer:  # noqa: B006 - trained once for all examples
    if not made:
        made.append(RustBPETokenizer.train_from_iterator(TEXTS, 300))
    return made[0]


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_a_special_spelled_out_in_text_is_ordinary_text(tokenizer, special):
    text = f"say {special} twice {special}"
    assert max(tokenizer.encode(text)) < 291
    assert max(max(row) for row in tokenizer.encode([text, special])) < 291
    assert tokenizer.decode(tokenizer.encode(text)) == text
    ids, _ = tokenizer.render_conversation({"messages": [{"role": "user", "content": special}]})
    assert [i for i in ids if i >= 291] == [291, 292, 293]  # bos, user_start, user_end


def test_prepend_and_append_take_an_id_or_a_special(tokenizer):
    plain = tokenizer.encode("the cat")
    assert tokenizer.encode("the cat", prepend="<|bos|>", append=7) == [291, *plain, 7]
    assert tokenizer(["the cat", ""], prepend=291, num_threads=2) == [[291, *plain], [291]]


def test_wrong_input_is_named(tokenizer):
    with pytest.raises(TypeError, match="got int"):
        tokenizer.encode(3)
    with pytest.raises(ValueError, match=r"'the' is no special token here; known: <\|assistant_end"):
        tokenizer.encode_special("the")
    with pytest.raises(ValueError, match="vocab_size 264 is too small: bytes and specials take 265"):
        RustBPETokenizer.train_from_iterator(TEXTS, 264)


def test_the_smallest_vocabulary_is_bytes_and_specials():
    tokenizer = RustBPETokenizer.train_from_iterator(TEXTS, 265)
    assert tokenizer.encode("hé") == list("hé".encode())
    assert tokenizer.get_bos_token_id() == 256


def test_bytes_of_single_tokens_join_to_the_text(tokenizer):
    text = "naïve 🙂"
    assert b"".join(map(tokenizer.decode_single_token_bytes, tokenizer.encode(text))) == text.encode()
    assert tokenizer.id_to_token(291) == "<|bos|>"


def test_token_bytes_count_raw_bytes_and_nothing_for_specials(tokenizer):
    counts = count_token_bytes(tokenizer)
    assert counts.shape == (300,)
    assert counts[:256].tolist() == [1] * 256
    assert counts[291:].tolist() == [0] * 9
    assert counts[tokenizer.encode(TEXTS[1])].sum() == len(TEXTS[1].encode())


def test_the_base_folder_serves_the_tokenizer_and_its_byte_counts(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        get_tokenizer()
    tokenizer.save(tmp_path / "tokenizer")
    assert get_tokenizer().encode("the mat") == tokenizer.encode("the mat")
    assert get_token_bytes().tolist() == count_token_bytes(tokenizer).tolist()


# Conversations --------------------------------------------------------------------------------------------------------

TOOL_CALL = [
    {"type": "text", "text": "so "},
    {"type": "python", "text": "1+1"},
    {"type": "python_output", "text": "2"},
    {"type": "text", "text": " is it"},
]


def spell(tokenizer: RustBPETokenizer, ids: list[int], mask: list[int]) -> list[tuple[str, int]]:
    """Runs of equal mask, as text."""
    runs: list[tuple[list[int], int]] = []
    for token, trained in zip(ids, mask, strict=True):
        if not runs or runs[-1][1] != trained:
            runs.append(([], trained))
        runs[-1][0].append(token)
    return [(tokenizer.decode(run), trained) for run, trained in runs]


def test_the_mask_covers_what_the_assistant_says_itself(tokenizer):
    conversation = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": TOOL_CALL},
        ]
    }
    assert spell(tokenizer, *tokenizer.render_conversation(conversation)) == [
        ("<|bos|><|user_start|>Be brief.\n\n1+1?<|user_end|><|assistant_start|>", 0),
        ("so <|python_start|>1+1<|python_end|>", 1),
        ("<|output_start|>2<|output_end|>", 0),
        (" is it<|assistant_end|>", 1),
    ]
    assert conversation["messages"][1]["content"] == "1+1?"


def test_rendering_is_cut_and_completion_is_not(tokenizer):
    talk = {"messages": [{"role": "user", "content": "cat " * 3000}, {"role": "assistant", "content": "yes"}]}
    ids, mask = tokenizer.render_conversation(talk, max_tokens=10)
    assert len(ids) == len(mask) == 10
    prompt = tokenizer.render_for_completion(talk)
    assert len(prompt) > 2048
    assert tokenizer.decode(prompt[-2:]) == "<|user_end|><|assistant_start|>"


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "at least one message"),
        ([{"role": "assistant", "content": "hi"}], "from 'assistant', it should be from 'user'"),
        ([{"role": "system", "content": "x"}], "must be followed by a user message"),
        ([{"role": "user", "content": [1]}], "content of a user message must be text"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "image", "text": ""}]}],
            "unknown part type 'image'",
        ),
    ],
)
def test_a_malformed_conversation_is_refused_with_its_reason(tokenizer, messages, complaint):
    with pytest.raises(ValueError, match=complaint):
        tokenizer.render_conversation({"messages": messages})


def test_a_completion_needs_an_assistants_message_to_leave_out(tokenizer):
    with pytest.raises(ValueError, match="must end with the assistant's message"):
        tokenizer.render_for_completion({"messages": [{"role": "user", "content": "a"}]})


def test_visualisation_colours_by_mask(tokenizer):
    shown = tokenizer.visualize_tokenization(tokenizer.encode("a=")[:2], [1, 0], with_token_id=True)
    assert shown == "\033[92ma\033[0m\033[90m(97)\033[0m|\033[91m=\033[0m\033[90m(61)\033[0m"
