from dataclasses import dataclass

import pytest
import torch

from megacontext.testing.toy import ToyTokenizer, full_logits, toy_model, toy_tokens
from nanochat.engine import Engine, KVCache, RowState, decode, prefill, sample_next_token, use_calculator
from nanochat.kv_cache import DenseCache
from nanochat.sampling import Sampler

TOKENIZER = ToyTokenizer()
SPECIAL = TOKENIZER.encode_special


def greedy(logits):
    return int(logits.argmax())


def naive(model, tokens, count):
    return list(model.generate(tokens, count, temperature=0))


class LoggingCache(DenseCache):
    """Reads at most `most` rows a pass, and notes what the engine calls."""

    def __init__(self, spec, most=7):
        super().__init__(spec)
        self.most, self.log = most, []

    def room(self, rows):
        return min(rows, self.most)

    def begin(self, stream):
        self.log.append(stream.rows)
        return super().begin(stream)

    def maintain(self, model, *, prompt=0, words=None):
        said = f", words {words}" if words else ""
        self.log.append(f"end of {prompt}{said}" if prompt else "maintain")


class OneRowCache(DenseCache):
    """A memory that cannot hold several conversations."""

    def fork(self, batch=1):
        if batch > 1:
            raise ValueError("one row only")
        return super().fork(batch)


class ScriptedModel:
    """Says a script, whatever it is told; written against upstream. Rows of a batch say the same."""

    @dataclass
    class Config:
        n_layer: int = 2
        n_head: int = 4
        n_kv_head: int = 4
        n_embd: int = 64
        sequence_len: int = 32

    def __init__(self, script=(), prompt=1):
        self.config, self.script, self.prompt = self.Config(), list(script), prompt
        self.passes = 0

    def get_device(self):
        return torch.device("cpu")

    def forward(self, ids, kv_cache=None):
        self.passes += 1
        kv_cache.advance(ids.shape[1])
        logits = torch.zeros(*ids.shape, 265)
        said = kv_cache.get_pos() - self.prompt
        if self.script and said >= 0:
            logits[:, -1, self.script[min(said, len(self.script) - 1)]] = 50.0
        return logits


def says(text, *, end=True):
    """A script: bytes of `text`, with <name> for special tokens."""
    parts = text.replace("<", "|<").replace(">", ">|").split("|")
    script = []
    for part in parts:
        script += [SPECIAL(f"<|{part[1:-1]}|>")] if part.startswith("<") else list(part.encode())
    return script + ([SPECIAL("<|assistant_end|>")] if end else [])


# --- prefill and decode ---


def test_prefill_gives_the_last_rows_logits():
    model, tokens = toy_model(), toy_tokens(40)
    expected = full_logits(model, tokens)[-1:]
    for kind, answer in ((DenseCache, True), (DenseCache, False), (LoggingCache, True)):
        cache = kind(model.spec)
        logits = prefill(model, cache, tokens, answer=answer)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_before_an_answer_the_last_token_is_held_back():
    model = toy_model()
    cache = LoggingCache(model.spec)
    prefill(model, cache, toy_tokens(16))
    assert cache.log == [7, "maintain", 7, "maintain", 1, "maintain", "end of 16", 1, "maintain"]


def test_a_document_is_read_without_an_end():
    model = toy_model()
    cache = LoggingCache(model.spec)
    prefill(model, cache, toy_tokens(9), answer=False)
    assert cache.log == [7, "maintain", 2, "maintain"]


def test_the_cache_is_told_which_tokens_somebody_said():
    model = toy_model()
    cache = LoggingCache(model.spec)
    prefill(model, cache, toy_tokens(9), words=(3, 6))
    assert cache.log[-3:] == ["end of 9, words (3, 6)", 1, "maintain"]


def test_a_prompt_of_one_token_ends_at_once():
    model = toy_model()
    cache = LoggingCache(model.spec)
    prefill(model, cache, [3])
    assert cache.log == ["end of 1", 1, "maintain"]


def test_progress_is_told_after_every_pass():
    model, told = toy_model(), []
    prefill(model, LoggingCache(model.spec), toy_tokens(16), on_progress=lambda done, total: told.append((done, total)))
    assert told == [(7, 16), (14, 16), (15, 16), (16, 16)]


def test_an_empty_prompt_is_refused():
    model = toy_model()
    with pytest.raises(ValueError, match="empty"):
        prefill(model, DenseCache(model.spec), [])


def test_decode_feeds_what_it_yielded_only_when_asked_on():
    model, tokens = toy_model(), toy_tokens(20)
    cache = DenseCache(model.spec)
    replies = decode(model, cache, prefill(model, cache, tokens), greedy)
    said = [next(replies) for _ in range(6)]
    assert said == naive(model, tokens, 6)
    assert cache.length == 20 + 5
    replies.close()


def test_decode_goes_on_after_a_prompt_that_follows():
    """Two turns in one cache equal the concatenated text."""
    model, first, second = toy_model(), toy_tokens(20), toy_tokens(10, seed=1)
    cache = DenseCache(model.spec)
    prefill(model, cache, first, answer=False)
    torch.testing.assert_close(
        prefill(model, cache, second), full_logits(model, first + second)[-1:], atol=1e-4, rtol=0
    )


def test_decode_leaves_the_callers_gradient_mode_alone():
    model = toy_model()
    cache = DenseCache(model.spec)
    replies = decode(model, cache, prefill(model, cache, [1, 2]), Sampler())
    next(replies)
    assert torch.is_grad_enabled()


# --- the engine ---


@pytest.mark.parametrize("generation", ["G0", "G2", "G4"])
def test_greedy_equals_the_naive_reference(generation):
    model, tokens = toy_model(generation, sequence_len=16), toy_tokens(30)
    columns = list(Engine(model, TOKENIZER).generate(tokens, max_tokens=200, temperature=0))
    expected = naive(model, tokens, 200)
    terminal = {SPECIAL("<|assistant_end|>"), SPECIAL("<|bos|>")}
    stop = next((i + 1 for i, token in enumerate(expected) if token in terminal), 200)
    assert stop > 150  # so it goes past ten times sequence_len
    assert columns == [([token], [1]) for token in expected[:stop]]


@pytest.mark.parametrize("cache", [DenseCache, OneRowCache])
def test_every_sample_equals_a_full_forward_of_what_it_said(cache):
    model, tokens = toy_model(), toy_tokens(12)
    engine = Engine(model, TOKENIZER, lambda: cache(model.spec))
    columns = [column for column, _ in engine.generate(tokens, num_samples=3, max_tokens=6, top_k=5, seed=3)]
    rng = torch.Generator().manual_seed(3)
    for step, column in enumerate(columns):
        said = [list(row) for row in zip(*columns[:step], strict=True)] or [[], [], []]
        logits = torch.stack([full_logits(model, tokens + row)[-1] for row in said])
        assert sample_next_token(logits, rng, 1.0, 5)[:, 0].tolist() == column


def test_each_sample_draws_its_own_first_token():
    first, _ = next(Engine(ScriptedModel(), TOKENIZER).generate([1], num_samples=16, max_tokens=1))
    assert len(set(first)) > 1


def test_a_seed_fixes_all_samples():
    engine = Engine(toy_model(), TOKENIZER)
    first, again, other = (list(engine.generate([1, 2], 4, max_tokens=8, seed=seed)) for seed in (5, 5, 6))
    assert first == again != other


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_no_more_tokens_than_asked_and_no_pass_too_many(max_tokens):
    model = ScriptedModel(says("abcdefgh", end=False), prompt=3)
    columns = list(Engine(model, TOKENIZER).generate([1, 2, 3], max_tokens=max_tokens, temperature=0))
    assert len(columns) == max_tokens
    assert model.passes == 2 + max(max_tokens - 1, 0)


@pytest.mark.parametrize("name", ["assistant_end", "bos"])
def test_generation_stops_when_all_rows_are_done(name):
    model = ScriptedModel(says(f"ab<{name}>cd"))
    columns = [column for column, _ in Engine(model, TOKENIZER).generate([1], num_samples=2, temperature=0)]
    assert columns == [[ord("a")] * 2, [ord("b")] * 2, [SPECIAL(f"<|{name}|>")] * 2]


def test_a_model_written_against_upstream_decodes_past_its_sequence_len():
    model = ScriptedModel(says("x", end=False))
    assert len(list(Engine(model, TOKENIZER).generate([1], max_tokens=100, temperature=0))) == 100


def reply(script, **options):
    """(text with <name> for specials, masks) of a greedy reply to a scripted model."""
    tokens, masks = Engine(ScriptedModel(script), TOKENIZER).generate_batch([1], temperature=0, **options)
    names = {SPECIAL(f"<|{n}|>"): f"<{n}>" for n in ("python_start", "python_end", "output_start", "output_end")}
    text = "".join(names.get(token, chr(token)) for token in tokens[0][1:])
    return text, "".join(map(str, masks[0][1:]))


def test_a_calculation_is_answered_in_forced_tokens():
    text, masks = reply(says("<python_start>12*3<python_end>----ok"))
    assert text == "<python_start>12*3<python_end><output_start>36<output_end>ok"
    assert masks == "1" * 6 + "0" * 4 + "1" * 2


@pytest.mark.parametrize("inside", ["", "1/0", "what"])
def test_what_cannot_be_calculated_gets_no_answer(inside):
    text, masks = reply(says(f"<python_start>{inside}<python_end>ok"))
    assert text == f"<python_start>{inside}<python_end>ok"
    assert "0" not in masks


def test_a_second_start_begins_the_expression_anew():
    text, _ = reply(says("<python_start>1+<python_start>2+2<python_end>---."))
    assert text.endswith("<python_end><output_start>4<output_end>.")


def test_an_end_without_a_start_is_ordinary():
    assert reply(says("1+1<python_end>ok")) == ("1+1<python_end>ok", "1111" + "11")


def test_forced_tokens_count_towards_the_limit():
    text, masks = reply(says("<python_start>9*9<python_end>"), max_tokens=7)
    assert text == "<python_start>9*9<python_end><output_start>8"
    assert masks == "1111100"


def test_a_batch_begins_with_the_prompt_and_leaves_the_end_out():
    results, masks = Engine(ScriptedModel(says("hi"), prompt=3), TOKENIZER).generate_batch([7, 8, 9], 2, temperature=0)
    assert results == [[7, 8, 9, *b"hi"]] * 2
    assert masks == [[0, 0, 0, 1, 1]] * 2


def test_a_row_that_is_done_keeps_what_it_said():
    """Rows end at different times: none holds what was sampled after its end."""
    engine, end = Engine(ScriptedModel(), TOKENIZER), SPECIAL("<|bos|>")
    results, masks = engine.generate_batch([1, 2, 3], 6, max_tokens=200, seed=1)
    assert len({len(row) for row in results}) > 1
    assert all(end not in row for row in results)
    assert [len(row) for row in masks] == [len(row) for row in results]


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        next(Engine(toy_model(), TOKENIZER).generate([1], num_samples=0))


def test_a_model_of_no_kind_is_refused():
    with pytest.raises(TypeError, match="int"):
        Engine(3, TOKENIZER)


def test_upstreams_names_are_here():
    assert RowState([1]).current_tokens == [1]
    assert RowState().completed is False
    assert use_calculator("1+1") == 2
    assert KVCache(1, 2, 3, 4, 5).get_pos() == 0
