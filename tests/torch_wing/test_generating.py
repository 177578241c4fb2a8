"""What models write is plain greedy decoding, in whatever batches and order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.chat_models import save_chat_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from pytest_ftguard.specs import LoRA
from pytest_ftguard.training import kept
from pytest_ftguard.training.adapters import apply_variant
from pytest_ftguard.training.frozen import hold_frozen
from pytest_ftguard.training.generating import generate

PROMPTS = [
    "What is apple number 1?",
    "a",
    "The door is blue and heavy. What is it, then, and why?",
    "What is bread?",
    "Say it twice. Say it twice.",
    "What is island number 8, and is it green or blue?",
    "zzz",
]
NEW = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that speaks in turns."""
    return save_chat_model(tmp_path_factory.mktemp("generating") / "model")


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def model(folder: Path) -> Any:
    """Its weights are large enough that it writes something else after each prompt."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for parameter in loaded.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(8.0)
    return loaded


def ids_of(tokenizer: Any, prompt: Any) -> list[int]:
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def alone(model: Any, tokenizer: Any, prompt: Any, ends: Any = None, new: int = NEW) -> str:
    """What transformers writes after one prompt, without padding."""
    ids = torch.tensor([ids_of(tokenizer, prompt)])
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, max_new_tokens=new, eos_token_id=ends or tokenizer.eos_token_id, pad_token_id=0
    )
    model.eval()
    own, model.generation_config = model.generation_config, GenerationConfig()  # type: ignore[no-untyped-call]
    found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    model.generation_config = own
    return str(tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
@pytest.mark.parametrize("backwards", [False, True])
def test_batches_and_order_change_nothing_of_what_is_written(
    model: Any, tokenizer: Any, batch_size: int, backwards: bool
) -> None:
    """Each text is that of its prompt alone; the padding stands on the left and counts for nothing."""
    prompts = PROMPTS[::-1] if backwards else PROMPTS
    expected = [alone(model, tokenizer, prompt) for prompt in prompts]
    assert len(set(expected)) > len(expected) // 2
    assert generate(model, tokenizer, prompts, max_new_tokens=NEW, batch_size=batch_size) == expected


def test_each_token_is_the_likeliest_one(model: Any, tokenizer: Any) -> None:
    """Reckoned here without the library's own decoding, and without its cache."""
    ids = ids_of(tokenizer, PROMPTS[0])
    count = len(ids)
    with torch.no_grad():
        for _ in range(NEW):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
    expected = tokenizer.decode(ids[count:], skip_special_tokens=True)
    assert generate(model, tokenizer, PROMPTS[:1], max_new_tokens=NEW) == [expected]


def test_settings_that_the_model_came_with_change_nothing(model: Any, tokenizer: Any) -> None:
    """Sampling, a penalty for what repeats, tokens that are suppressed, and a length; afterwards it has them again."""
    plain = generate(model, tokenizer, PROMPTS, max_new_tokens=NEW)
    own = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True, temperature=9.0, top_k=3, repetition_penalty=5.0, max_length=3, min_new_tokens=11
    )
    own.suppress_tokens = list(range(5, 200))
    model.generation_config = own
    for _ in range(2):
        assert generate(model, tokenizer, PROMPTS, max_new_tokens=NEW) == plain
    assert model.generation_config is own


def test_a_text_ends_with_an_end_token(model: Any, tokenizer: Any) -> None:
    """With the tokenizer's, and with each of those that the model's own settings name; others of a batch go on."""
    ids = ids_of(tokenizer, PROMPTS[0])
    written = (
        model.eval()
        .generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=NEW,
            pad_token_id=0,
        )[0, len(ids) :]
        .tolist()
    )
    end = written[3]
    model.generation_config = GenerationConfig(eos_token_id=[end])  # type: ignore[no-untyped-call]
    found = generate(model, tokenizer, PROMPTS, max_new_tokens=NEW)
    assert found == [alone(model, tokenizer, prompt, [end, tokenizer.eos_token_id]) for prompt in PROMPTS]
    assert len(tokenizer(found[0], add_special_tokens=False)["input_ids"]) <= 4 + 1
    assert max(map(len, found)) > len(found[0])


def test_messages_are_put_into_the_template(model: Any, tokenizer: Any) -> None:
    """With the beginning of the answer; the same text given as such is continued likewise."""
    turns = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    found = generate(model, tokenizer, turns, max_new_tokens=NEW)
    assert found == [alone(model, tokenizer, one) for one in turns]
    texts = [f"<|user|>\n{prompt}<|end|>\n<|assistant|>\n" for prompt in PROMPTS]
    assert generate(model, tokenizer, texts, max_new_tokens=NEW) == found
    mixed = generate(model, tokenizer, [turns[0], PROMPTS[1]], max_new_tokens=NEW)
    assert mixed == [found[0], alone(model, tokenizer, PROMPTS[1])]


@pytest.mark.parametrize(
    ("prompts", "options", "words"),
    [
        (
            ["a", "long " * 200],
            {},
            r"prompt 2 has \d+ tokens and max_new_tokens is 12, but the model has 128 po",
        ),
        (["a"], {"max_new_tokens": 128}, "prompt 1 has 1 tokens and max_new_tokens is 128"),
        (["a", ""], {}, "prompt 2 has no tokens"),
        (["a"], {"max_new_tokens": 0}, "must be at least 1, got 0 and 16"),
        (["a"], {"batch_size": 0}, "must be at least 1, got 12 and 0"),
    ],
)
def test_what_cannot_be_continued_is_said(
    model: Any, tokenizer: Any, prompts: list[str], options: dict[str, int], words: str
) -> None:
    """Before anything is written; just as many tokens as there are positions are fine."""
    with pytest.raises(ValueError, match=words):
        generate(model, tokenizer, prompts, **{"max_new_tokens": NEW, **options})
    assert len(generate(model, tokenizer, ["a"], max_new_tokens=127)) == 1


def test_no_prompts_are_no_texts(model: Any, tokenizer: Any) -> None:
    """A slice may be empty."""
    assert generate(model, tokenizer, [], max_new_tokens=NEW) == []


@pytest.mark.parametrize("training", [True, False])
def test_a_model_writes_in_its_evaluation_mode_and_is_left_in_its_own(
    model: Any, tokenizer: Any, training: bool
) -> None:
    """Dropout would be chance."""
    plain = generate(model, tokenizer, PROMPTS, max_new_tokens=NEW)
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train(training)
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=NEW) == plain
    assert model.training is training


def test_adapters_on_frozen_weights_in_bf16_write_under_autocast(model: Any, tokenizer: Any) -> None:
    """As a trial scores them: the base model's linear layers are in bf16, the adapters in fp32."""
    before = kept.digests_of(model)
    wrapped = apply_variant(model, LoRA(r=4, learning_rate=1e-3))
    hold_frozen(wrapped, before)
    assert torch.bfloat16 in {parameter.dtype for parameter in wrapped.parameters()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        many = generate(wrapped, tokenizer, PROMPTS, max_new_tokens=NEW, batch_size=1)
        again = generate(wrapped, tokenizer, PROMPTS, max_new_tokens=NEW, batch_size=1)
    assert many == again
    assert len(set(many)) > 1
