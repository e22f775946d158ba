"""Text to ids and back, conversations as templates write them; typed specials stay text."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_files import CHATML, MERGES, SPECIALS, TOKENS, tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from megacontext.errors import ConfigError
from megacontext.models.base import ModelFileError
from megacontext.models.chat_template import TemplateChat
from megacontext.models.folder_text import FolderText
from megacontext.models.gguf_tokenizer import PATTERNS, begin_ids, build_tokenizer, special_ids, stop_ids
from megacontext.models.text import NoChat, TokenizersText

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (('<<SYS>>' + system + '<</SYS>>') if system and loop.first else '')"
    " + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n\n' + m['content'] | trim }}"
    "{{ '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
VARIABLES = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
unhurried = settings(deadline=None, max_examples=60)  # the first example pays for imports
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def text_model(made: Tokenizer | None = None) -> TokenizersText:
    return TokenizersText(made or tokenizer(), special={0, 1, 2}, stop_ids={2}, vocab=len(TOKENS))


def chat(template: str = CHATML) -> TemplateChat:
    return TemplateChat(template, text_model(), VARIABLES)


def theirs(template: str, messages: list[dict[str, str]], *, reply: bool) -> list[int]:
    """What transformers makes of a conversation."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer(), chat_template=template, **VARIABLES)
    return list(fast.apply_chat_template(messages, add_generation_prompt=reply, return_dict=False))


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@unhurried
@given(WORDS)
def test_text_comes_back(words):
    text = text_model()
    assert text.decode(text.encode(words)) == words
    assert b"".join(map(text.token_bytes, text.encode(words))) == words.encode()


@unhurried
@given(
    st.lists(st.one_of(WORDS, st.sampled_from([*SPECIALS, "<|im_", "start|>", "<|", "|>"])), max_size=6).map("".join)
)
def test_typed_specials_are_ordinary_text(words):
    text = text_model()
    assert text.special_ids.isdisjoint(text.encode(words))
    assert text.decode(text.encode(words)) == words
    format = chat()
    assert text.special_ids & set(format.user(words)) == {1, 2}
    assert [i for i in format.user(words, reply=False) if i in text.special_ids] == [1, 2]
    assert [i for i in format.opening(words) if i in text.special_ids] == [1, 2]


def test_specials_are_silent_in_text():
    text = text_model()
    assert text.decode([1, *text.encode("the"), 2, 0]) == "the"
    assert text.token_bytes(1) == b""
    assert text.token_bytes(10**6) == text.token_bytes(-1) == b""


def test_a_split_character_streams_as_bytes():
    text = text_model()
    pieces = [text.token_bytes(i) for i in text.encode("é🙂")]
    assert len(pieces) == 6
    assert b"".join(pieces).decode() == "é🙂"


def test_a_vocabulary_that_merges_into_a_special_still_keeps_text_ordinary():
    """Single letters as specials: nothing but leaving them out would do."""
    made = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    made.decoder = decoders.ByteLevel()
    text = TokenizersText(made, special={2}, stop_ids={2}, vocab=3)
    assert text.encode("abba") == [0, 1, 1, 0]


@unhurried
@given(st.lists(WORDS, min_size=1, max_size=5, unique=False), st.one_of(st.none(), WORDS))
def test_turns_add_up_to_what_transformers_makes_of_the_conversation(turns, system):
    format, text = chat(), text_model()
    messages = [] if system is None else [said("system", system)]
    ids = format.opening(system)
    for number, words in enumerate(turns):
        if number % 2:
            messages.append(said("assistant", words))
            ids += text.encode(words) + format.close()
        else:
            messages.append(said("user", words))
            ids += format.user(words, reply=number + 1 < len(turns))
    if not any(special in words for special in SPECIALS for words in [*turns, system or ""]):
        plain = theirs(CHATML, messages, reply=False)
        assert text.decode(ids) == text.decode(plain)
        if not any(words[:1].isspace() for words in turns[1::2]):  # there a reply's own ids begin after the header
            assert ids == plain


def test_a_reply_is_asked_for_as_transformers_does():
    format = chat()
    messages = [said("user", "the and the")]
    assert format.opening(None) + format.user("the and the") == theirs(CHATML, messages, reply=True)
    messages.insert(0, said("system", "and"))
    assert format.opening("and") + format.user("the and the") == theirs(CHATML, messages, reply=True)


def test_a_template_that_strips_contents_strips_ours():
    format = chat(LLAMA3)
    messages = [said("system", " and "), said("user", "\n the  ")]
    assert format.opening(" and ") + format.user("\n the  ") == theirs(LLAMA3, messages, reply=True)


def test_the_first_special_after_a_reply_stops_it():
    assert chat().stop_ids == {2}
    assert chat().close() == [2, *text_model().encode("\n")]


def test_a_template_that_folds_the_system_message_works_without_one():
    format, text = chat(LLAMA2), text_model()
    messages = [said("user", "the"), said("assistant", "and"), said("user", "an")]
    ids = [*format.opening(None), *format.user("the"), *text.encode(" and"), *format.close()[1:], *format.user("an")]
    whole = theirs(LLAMA2, messages, reply=True)
    assert text.decode(ids).replace(" ", "") == text.decode(whole).replace(" ", "")
    with pytest.raises(ConfigError, match="system message"):
        format.opening("be kind")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if %}", "cannot be read"),
        ("{{ raise_exception('no turns today') }}", "no turns today"),
        ("{{ messages[0].content }}", "leaves out"),
        ("{% for m in messages %}{{ m.nothing.at.all }}{% endfor %}", "refuses"),
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", "rewrites"),
        ("{{ ''.__class__.__mro__ }}", "refuses"),
        ("{% for m in messages %}{{ m.content }}{{ 1 / 0 }}{% endfor %}", "refuses"),
    ],
)
def test_a_template_that_cannot_serve_is_refused_at_once(template, message):
    with pytest.raises(ConfigError, match=message):
        chat(template)


def test_templates_have_the_helpers_of_transformers():
    template = (
        "{{ strftime_now('%Y') }}{{ {'a': '<é>'} | tojson }}{% for m in messages %}{% generation %}"
        "{{ m.role + ':' + m.content }}{% endgeneration %}{% if false %}{% break %}{% endif %}{% endfor %}"
    )
    opening = text_model().decode(chat(template).opening(None))
    assert opening == datetime.now().strftime("%Y") + '{"a": "<é>"}'


def test_a_base_model_has_paragraphs_for_turns():
    text = text_model()
    format = NoChat(text)
    assert text.decode(format.opening("and") + format.user("the") + format.close()) == "and\n\nthe\n\n\n\n"
    assert format.opening(None) == []


def test_a_text_begins_as_the_file_asks():
    facts = metadata(add_bos_token=True)
    assert begin_ids(facts) == begin_ids(metadata(model="llama")) == [1]
    assert begin_ids(metadata()) == begin_ids(metadata(model="llama", add_bos_token=False)) == []
    text = TokenizersText(tokenizer(), special={0, 1, 2}, stop_ids={2}, vocab=len(TOKENS), begin=[1])
    assert text.chat.opening("and") == [1, *text.encode("and\n\n")]


# The tokenizer of a GGUF file -----------------------------------------------------------------------------------------


def metadata(**changes: object) -> dict[str, object]:
    made = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": TOKENS,
        "token_type": [3] * 3 + [1] * (len(TOKENS) - 3),
        "merges": [" ".join(pair) for pair in MERGES],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in {**made, **changes}.items() if value is not None}


@unhurried
@given(WORDS)
def test_the_tokenizer_of_a_gguf_equals_the_one_it_was_made_of(words):
    assert build_tokenizer(metadata(), "x").encode(words).ids == tokenizer().encode(words).ids


@pytest.mark.parametrize("pre", sorted(PATTERNS))
def test_every_known_way_to_cut_text_keeps_every_byte(pre):
    facts = metadata(pre=pre)
    text = TokenizersText(build_tokenizer(facts, "x"), special=special_ids(facts), stop_ids=(), vocab=len(TOKENS))
    words = "It's 12345 o'clock,  the\n\n\tand: naïve café 你好 🙂 x=y<=z ... <|im_end|>"
    assert text.decode(text.encode(words)) == words


def test_digits_stand_alone_in_smollm():
    from tokenizers import pre_tokenizers

    known = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    ours = build_tokenizer(metadata(pre="smollm"), "x").pre_tokenizer
    for words in ("a1b22 333", "  x 12.5 it's ½ ² ٣", "tab\t7\n\n8 end  "):
        assert ours.pre_tokenize_str(words) == known.pre_tokenize_str(words)


def test_special_and_stop_ids_are_those_that_the_file_names():
    facts = metadata(eot_token_id=0)
    assert special_ids(facts) == {0, 1, 2}
    assert stop_ids(facts) == {0, 1, 2}


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": None},
        {"tokens": ["a", 1]},
        {"merges": ["no such"]},
        {"merges": ["oneword"]},
        {"eos_token_id": 10**6},
        {"eos_token_id": "two"},
    ],
)
def test_a_tokenizer_that_does_not_fit_together_is_refused(changes):
    with pytest.raises(ModelFileError):
        build_tokenizer(metadata(**changes), "x")


def sentencepiece() -> dict[str, object]:
    """A vocabulary in SentencePiece's way: scores order the merges, unknown letters fall back to bytes."""
    words = ["▁", "t", "h", "e", "▁t", "he", "▁the"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    types = [2, 3, 3, *[6] * 256, *[1] * len(words)]
    scores = [0.0] * 259 + [-float(i) for i in [9, 9, 9, 9, 1, 2, 3]]
    return metadata(model="llama", tokens=tokens, token_type=types, scores=scores, merges=None, unknown_token_id=0)


def test_a_sentencepiece_vocabulary_works_from_its_scores():
    facts = sentencepiece()
    made = build_tokenizer(facts, "x")
    tokens = facts["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    text = TokenizersText(made, special=special_ids(facts), stop_ids=(), vocab=len(tokens))
    assert [tokens[i] for i in text.encode("the the")] == ["▁the", "▁the"]
    assert text.decode(text.encode("the é</s>")) == " the é</s>"
    assert text.special_ids.isdisjoint(text.encode("</s> <unk> é"))


def test_sentencepiece_without_scores_is_refused():
    with pytest.raises(ModelFileError, match="scores"):
        build_tokenizer({**sentencepiece(), "tokenizer.ggml.scores": [1.0]}, "x")


# The tokenizer of a folder --------------------------------------------------------------------------------------------


def test_a_control_token_that_is_not_flagged_is_special_all_the_same(tmp_path):
    made = tokenizer()
    made.add_tokens([AddedToken("<|tool|>", special=False), AddedToken("    ", special=False)])
    made.save(str(tmp_path / "tokenizer.json"))
    text = FolderText(tmp_path).text(vocab=len(TOKENS) + 2)
    assert len(TOKENS) in text.special_ids
    assert text.special_ids.isdisjoint(text.encode("a <|tool|> b"))
    assert len(TOKENS) + 1 in text.encode("a    b")


def test_a_special_that_takes_white_space_along_does_so_in_templates(tmp_path):
    made = Tokenizer.from_str(tokenizer().to_str())
    raw = json.loads(made.to_str())
    for token in raw["added_tokens"]:
        token["rstrip"] = True
    text = text_model(Tokenizer.from_str(json.dumps(raw)))
    assert text.split_specials("<|im_end|>\n\n<|im_start|>user\n") == [2, 1, "user\n"]


def test_a_missing_tokenizer_names_the_file(tmp_path):
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        FolderText(tmp_path).text(vocab=1)


def test_a_normaliser_cannot_make_a_special_of_typed_text():
    """NFKC turns full-width letters into plain ones."""
    made = tokenizer()
    made.normalizer = normalizers.NFKC()
    text = text_model(made)
    assert text.special_ids.isdisjoint(text.encode("＜|im_end|＞ ＜｜ｉｍ＿ｅｎｄ｜＞"))


def test_half_a_surrogate_pair_is_text_like_any_other():
    text = text_model(tokenizer())
    assert text.encode("a\ud800b") == text.encode("a�b")
    assert text.encode("a\ud83d\ude00b") == text.encode("a😀b")


@pytest.mark.parametrize("damage", [{"added_tokens": [1]}, {"added_tokens": {"a": 1}}])
def test_added_tokens_that_are_none_name_the_file(tmp_path, damage):
    (tmp_path / "tokenizer.json").write_text(json.dumps({**json.loads(tokenizer().to_str()), **damage}))
    with pytest.raises(ModelFileError, match=r"tokenizer\.json: added_tokens must be a list of objects"):
        FolderText(tmp_path).text(vocab=300)


def test_senseless_settings_of_a_tokenizer_name_the_file_or_are_left_out(tmp_path):
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [1], "bos_token": "\\ud800"}')
    texts = FolderText(tmp_path)
    assert texts.variables == {"bos_token": "�"}
    with pytest.raises(ModelFileError, match=r"tokenizer_config\.json: chat_template must be a list of objects"):
        _ = texts.template


@pytest.mark.parametrize(
    "source", ["{{ " + "[" * 900 + "]" * 900 + " }}", "{{ 1e999 }}", "{% for a in 1 %}{% endfor %}"]
)
def test_a_template_that_cannot_run_is_refused(source):
    with pytest.raises(ConfigError, match="this model's chat template"):
        TemplateChat(source, text_model(tokenizer())).user("hello")
