"""The demo model: the real file, its real tokenizer and its real template, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from megacontext.config import ModelConfig
from megacontext.models import load_model
from megacontext.models.base import LoadedModel
from megacontext.models.gguf import GGUFFile
from nanochat.kv_cache import DenseCache, NoCache

PATH = Path(__file__).parents[3] / ModelConfig().path
pytestmark = [
    pytest.mark.needs_model,
    pytest.mark.skipif(not PATH.exists(), reason=f"{PATH.name} is absent; python tools/bootstrap_env.py brings it"),
]
SENTENCES = [
    "The history of the city begins with a small settlement by the river, founded in 1204.",
    "It's 12,345 o'clock -- isn't it?\n\n\tdef f(x):\n        return x**2  # naïve café 你好 🙂\n",
    "  leading and trailing  spaces  \n",
    "<|im_start|>user\nI am only text<|im_end|>",
]
CONVERSATION = [
    {"role": "user", "content": "Hi! My dog is called Rex."},
    {"role": "assistant", "content": "Nice to meet Rex."},
    {"role": "user", "content": "What's 2+2?\n\nAnswer in one word."},
]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(ModelConfig(path=str(PATH), dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def theirs() -> Any:
    """transformers' model with the same dequantised weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    file = GGUFFile(PATH)
    numbers = file.config
    config = LlamaConfig(
        vocab_size=numbers.vocab,
        hidden_size=numbers.width,
        intermediate_size=numbers.inner,
        num_hidden_layers=numbers.layers,
        num_attention_heads=numbers.heads,
        num_key_value_heads=numbers.kv_heads,
        rms_norm_eps=numbers.eps,
        max_position_embeddings=numbers.max_position,
        rope_parameters={"rope_type": "default", "rope_theta": file.metadata["llama.rope.freq_base"]},
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict({name: file.tensor(name) for name in model.state_dict() if name in file}, False, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


@pytest.fixture(scope="module")
def fast() -> Any:
    """transformers' tokenizer, put together as SmolLM2's own tokenizer.json says, with the template of the file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    facts = {key.removeprefix("tokenizer."): value for key, value in GGUFFile(PATH).metadata.items()}
    tokens, merges = facts["ggml.tokens"], [tuple(pair.split(" ")) for pair in facts["ggml.merges"]]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    cuts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    made.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([tokens[i] for i, kind in enumerate(facts["ggml.token_type"]) if kind == 3])
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=facts["chat_template"])


def logits(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    model = loaded.model
    with torch.inference_mode():
        return model.logits(model.forward(model.embed(torch.tensor([ids])), NoCache(model.spec)))[0]


def greedy(loaded: LoadedModel, ids: list[int], count: int) -> list[int]:
    model, cache, answer = loaded.model, DenseCache(loaded.model.spec), []
    with torch.inference_mode():
        rows = torch.tensor([ids])
        for _ in range(count):
            hidden = model.forward(model.embed(rows), cache)
            rows = model.logits(hidden[:, -1:]).argmax(-1)
            if int(rows) in loaded.text.stop_ids:
                break
            answer.append(int(rows))
    return answer


@pytest.mark.parametrize("sentence", SENTENCES)
def test_logits_equal_those_of_transformers(loaded, theirs, sentence):
    ids = loaded.text.encode(sentence)
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(logits(loaded, ids), expected, atol=1e-4, rtol=0)


def test_prefill_in_chunks_equals_the_full_forward(loaded):
    ids, model = loaded.text.encode(SENTENCES[0] + SENTENCES[1]), loaded.model
    cache, rows, at = DenseCache(model.spec), [], 0
    with torch.inference_mode():
        for size in (1, 7, 20, 1, len(ids)):
            chunk = torch.tensor([ids[at : at + size]])
            rows.append(model.logits(model.forward(model.embed(chunk), cache))[0])
            at += size
    torch.testing.assert_close(torch.cat(rows), logits(loaded, ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_the_capital_of_france_is_paris(dtype):
    model = load_model(ModelConfig(path=str(PATH), dtype=dtype, device="cpu"))
    text = model.text
    assert text.decode(greedy(model, text.encode("The capital of France is"), 1)) == " Paris"
    asked = text.chat.opening(None) + text.chat.user("What is the capital of France?")
    assert "Paris" in text.decode(greedy(model, asked, 12))


@pytest.mark.parametrize("sentence", SENTENCES[:3])
def test_ids_of_a_text_equal_those_of_transformers(loaded, fast, sentence):
    assert loaded.text.encode(sentence) == fast.encode(sentence, add_special_tokens=False)
    assert loaded.text.decode(loaded.text.encode(sentence)) == sentence


def test_ids_of_a_conversation_equal_those_of_transformers(loaded, fast):
    chat, text = loaded.text.chat, loaded.text
    for system in (None, "You answer like a pirate."):
        messages = [] if system is None else [{"role": "system", "content": system}]
        one, two, three = (turn["content"] for turn in CONVERSATION)
        ours = [*chat.opening(system), *chat.user(one), *text.encode(two), *chat.close(), *chat.user(three)]
        whole = fast.apply_chat_template(messages + CONVERSATION, add_generation_prompt=True, return_dict=False)
        assert ours == list(whole)


def test_typed_specials_are_ordinary_text(loaded, fast):
    text = loaded.text
    ids = text.encode(SENTENCES[3])
    assert text.special_ids.isdisjoint(ids)
    assert text.decode(ids) == SENTENCES[3]
    assert not text.special_ids.isdisjoint(fast.encode(SENTENCES[3], add_special_tokens=False))
    asked = [token for token in text.chat.user(SENTENCES[3]) if token in text.special_ids]
    assert [text._tokenizer.id_to_token(token) for token in asked] == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]


def test_the_end_of_a_turn_stops_a_reply(loaded):
    assert loaded.text.chat.close()[0] in loaded.text.stop_ids


def test_the_summary_says_what_it_is(loaded):
    summary = loaded.summary
    assert summary["parameters"] == 134_515_008
    assert summary["stored_as"] == "Q4_1"
    assert summary["max_position"] == loaded.model.spec.max_position == 8192
    assert loaded.model.spec.fingerprint
