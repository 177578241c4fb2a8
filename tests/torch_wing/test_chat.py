"""The task chat: what is trained and measured of rows, and what is wrong with them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.chat_models import END_OUTSIDE, NO_END, NO_TURNS, TEMPLATE, rows_of, write_rows
from transformers import masking_utils

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import Full, LoRA, Peft, TrialSpec, Variant, Workload
from pytest_ftguard.tasks import Examples, find_task
from pytest_ftguard.tasks.chat.data import Example
from pytest_ftguard.tasks.chat.task import Chat
from pytest_ftguard.tasks.rows import RowSet
from pytest_ftguard.training.forecast import forecast, plan_trial
from pytest_ftguard.training.trial import TrialFolder, run_trial

CHAT = Chat()


@pytest.fixture
def work(chat_model: Path, tmp_path: Path) -> Workload:
    """Eight steps on conversations."""
    return Workload(
        model=str(chat_model),
        train=write_rows(tmp_path / "train.jsonl", rows_of("messages", 60)),
        validation=write_rows(tmp_path / "validation.jsonl", rows_of("messages", 70, start=1000)),
        task="chat",
        block_size=96,
        steps=8,
        seeds=(0,),
        precision="fp32",
        validation_sequences=64,
    )


def given(work: Workload, **rows: Sequence[Any]) -> Workload:
    """Return the workload on other rows."""
    folder = Path(work.train).parent
    places = {role: write_rows(folder / f"{role}-other.jsonl", data) for role, data in rows.items()}
    return replace(work, **places)  # type: ignore[arg-type]


def examples_of(work: Workload) -> Examples:
    return CHAT.load_examples(work, CHAT.load_tokenizer(work))


def texts_that_count(work: Workload, examples: Sequence[Example]) -> list[str]:
    tokenizer = CHAT.load_tokenizer(work)
    return [tokenizer.decode(one.labels[one.labels != -100]) for one in examples]


def first(work: Workload) -> str:
    """Return what the loss is taken of in the first training example."""
    train: Any = examples_of(work).train
    return texts_that_count(work, train.examples[:1])[0]


QUESTION, ANSWER = "What is apple number 0?", "The apple is red."


def test_the_loss_is_taken_of_what_trl_takes_it_of(work: Workload) -> None:
    """The whole of texts and conversations, completions only of prompts, or the assistant's turns; EOS ends each."""
    whole = f"<|user|>\n{QUESTION}<|end|>\n<|assistant|>\n{ANSWER}<|end|>\n"
    turns = {"train": rows_of("messages", 60)}
    assert first(given(work, **turns)) == whole
    assert first(replace(given(work, **turns), assistant_only_loss=True)) == f"{ANSWER}<|end|>"
    prompts = given(work, train=rows_of("chat prompt", 60), validation=rows_of("chat prompt", 60, 1000))
    assert first(prompts) == f"{ANSWER}<|end|>\n"
    assert first(replace(prompts, completion_only_loss=False)) == whole
    plain = given(work, train=rows_of("prompt", 60), validation=rows_of("prompt", 60, 1000))
    assert first(plain) == f" {ANSWER}<|end|>"
    assert first(replace(plain, completion_only_loss=False)) == f"{QUESTION} {ANSWER}<|end|>"
    texts = given(work, train=rows_of("text", 60), validation=rows_of("text", 60, 1000))
    assert first(texts) == f"{QUESTION} {ANSWER}<|end|>"


def test_a_template_of_the_workload_takes_the_place_of_the_tokenizers(work: Workload) -> None:
    """It is saved with the tokenizer."""
    mine = replace(work, chat_template=TEMPLATE.replace("<|user|>", "<|system|>").replace("\n", " "))
    assert CHAT.load_tokenizer(mine).chat_template == mine.chat_template
    assert first(mine).startswith(f"<|user|> {QUESTION}<|end|>")


def test_conversations_of_from_and_value_and_tools_are_taken(work: Workload) -> None:
    """As TRL takes them: other names of the same, and tools that the template may use."""
    renamed = [
        {"conversations": [{"from": one["role"], "value": one["content"]} for one in row["messages"]]}
        for row in rows_of("messages", 60)
    ]
    assert first(given(work, train=renamed)) == first(work)
    template = "{% if tools %}{{ tools[0]['name'] }}{% endif %}" + TEMPLATE
    tools = [{"name": "lookup"}]
    told = [{**row, "tools": json.dumps(tools)} for row in rows_of("messages", 60)]
    assert first(given(replace(work, chat_template=template), train=told)).startswith("lookup<|user|>")


def test_the_loss_of_an_example_is_that_of_its_labels_whatever_its_batch(work: Workload) -> None:
    """The definition, one example at a time, with the tokens that do not count left out."""
    examples = examples_of(replace(work, assistant_only_loss=True)).validation
    model = CHAT.load_model(work)
    module: Any = model
    expected = []
    for one in examples.sequences:
        with torch.no_grad():
            log_p = module(input_ids=one.ids[None]).logits[0].double().log_softmax(-1)
        counted = [place for place in range(1, len(one.ids)) if one.labels[place] != -100]
        expected.append(-sum(float(log_p[place - 1, one.ids[place]]) for place in counted))
    assert examples.tokens[0] == int((examples.sequences[0].labels != -100).sum())
    for batch_size in (1, 3, 64):
        losses = CHAT.losses(module, examples, batch_size=batch_size, bf16=False)
        assert losses.nll == pytest.approx(expected, rel=1e-5)
        assert losses.tokens == examples.tokens


def test_a_batch_is_padded_on_the_right_and_padding_counts_for_nothing(work: Workload) -> None:
    """Attention and loss leave it out."""
    train: Any = examples_of(work).train
    batch = CHAT.collate([train[0], train[1]])
    lengths = [len(train[0]["input_ids"]), len(train[1]["input_ids"])]
    assert lengths[0] != lengths[1]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    short = lengths.index(min(lengths))
    assert set(batch["labels"][short, min(lengths) :].tolist()) == {-100}
    assert set(batch["input_ids"][short, min(lengths) :].tolist()) == {CHAT.load_tokenizer(work).pad_token_id}


def test_an_example_without_a_token_that_counts_is_an_error_and_no_loss_of_zero(work: Workload) -> None:
    """Nothing lets one through to a gate."""
    masked = Example(torch.arange(8), torch.full((8,), -100))
    with pytest.raises(ConfigurationError, match="an example of 0 tokens"):
        CHAT.losses(CHAT.load_model(work), RowSet((masked, masked)), batch_size=2, bf16=False)


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("variant", [Full(learning_rate=1e-3), LoRA(r=4, learning_rate=1e-2)], ids=["full", "lora"])
def test_a_trial_learns_and_its_forecast_holds(
    work: Workload, tmp_path: Path, variant: Full | LoRA, packing: bool
) -> None:
    """The forecast is that of the largest batch: of a block that cuts every row, each batch is."""
    spec = TrialSpec(workload=replace(work, packing=packing, block_size=16), variant=variant, seed=0, device="cpu")
    measured = run_trial(spec, TrialFolder(tmp_path / "trial", 0), lambda *_: None).measured
    assert measured.outcome == "ok"
    assert measured.validation is not None
    assert measured.base_validation is not None
    assert measured.validation.loss < measured.base_validation.loss
    assert measured.memory is not None
    assert measured.memory.peak_bytes is not None
    foretold = forecast(spec).forecast_bytes
    assert foretold is not None
    assert 0.995 <= foretold / measured.memory.peak_bytes <= 1.01


def test_evaluation_is_never_packed(work: Workload) -> None:
    """Each example is evaluated by itself, so the losses of the base model are the same."""
    assert examples_of(replace(work, packing=True)).validation.digest == examples_of(work).validation.digest


def test_packed_examples_do_not_see_one_another(
    work: Workload, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that ignores where an example begins is refused; so is a prompt of a variant's."""
    CHAT.load_model(replace(work, packing=True))
    CHAT.load_model(replace(work, packing=True, model=str(tiny_model), block_size=64))
    with monkeypatch.context() as blind:
        blind.setattr(masking_utils, "find_packed_sequence_indices", lambda _: None)
        with pytest.raises(ConfigurationError, match="LlamaForCausalLM does not keep packed examples apart"):
            CHAT.load_model(replace(work, packing=True))
    with pytest.raises(ConfigurationError, match="virtual tokens before each sequence"):
        plan_trial(
            TrialSpec(
                workload=replace(work, packing=True, block_size=64),
                variant=Peft("prompt_tuning", num_virtual_tokens=4, learning_rate=1e-3),
                seed=0,
                device="cpu",
            ),
            texts=True,
        )


def test_rows_that_are_too_long_are_cut_and_it_is_said_how_much(work: Workload) -> None:
    """The share of tokens, the number of rows, and the longest; a plan says so too."""
    remarks = examples_of(replace(work, block_size=40)).remarks
    assert len(remarks) == 2
    assert remarks[0].startswith(remarks[0].split(" %")[0] + " % of the training tokens were cut: ")
    assert "of 60 rows are longer than block_size 40 (the longest has " in remarks[0]
    assert examples_of(work).remarks == ()
    spec = TrialSpec(workload=replace(work, block_size=40), variant=Full(learning_rate=1e-3), seed=0, device="cpu")
    planned = plan_trial(spec, texts=True).measured.error
    assert planned is not None
    assert remarks[0] in planned.message


def longer_prompts(count: int, of: int, start: int = 0) -> list[dict[str, Any]]:
    rows = rows_of("prompt", of, start)
    return [
        {**row, "prompt": f"{row['prompt']} {'x' * 300}"} if number < count else row for number, row in enumerate(rows)
    ]


def test_examples_that_are_cut_to_nothing_are_left_out_and_counted(work: Workload) -> None:
    """Their prompt fills the block; if these are most of the rows, the block is too short for the data."""
    few = given(work, train=longer_prompts(6, 60), validation=rows_of("prompt", 60, 1000))
    found = examples_of(few)
    assert len(found.train) == 54  # type: ignore[arg-type]
    assert any(
        "6 of 60 training rows were left out: their prompt fills block_size 96 (rows 1, 2, 3, 4, 5, ...)" in remark
        for remark in found.remarks
    )
    most = given(work, train=rows_of("prompt", 60), validation=longer_prompts(40, 60, 1000))
    with pytest.raises(
        ConfigurationError,
        match=r"40 of 60 rows of the validation data .* have no token within block_size 96 .* raise block_size; the "
        r"longest row has \d+ tokens",
    ):
        examples_of(most)


def test_rows_without_anything_to_predict_are_left_out_and_counted(work: Workload) -> None:
    """An empty line has an EOS token and nothing before it; a loss of nothing would be 0, or no number."""
    texts = rows_of("text", 60)
    blank = given(work, train=[*texts[:50], *[{"text": ""}] * 10], validation=rows_of("text", 60, 1000))
    assert any("10 of 60 training rows were left out: they have no token" in one for one in examples_of(blank).remarks)
    nothing = given(work, train=texts, validation=[{"text": ""}] * 40)
    with pytest.raises(ConfigurationError, match=r"40 of 40 rows of the validation .* have no token that the loss"):
        examples_of(nothing)


def test_a_conversation_without_the_assistant_is_named(work: Workload) -> None:
    """TRL refuses it too: there is nothing that the loss could be taken of."""
    rows = rows_of("messages", 60)
    rows[6] = {"messages": rows[6]["messages"][:1]}
    with pytest.raises(ConfigurationError, match=r"row 7 of the training data .* has no turn of the assistant"):
        examples_of(replace(given(work, train=rows), assistant_only_loss=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"chat_template": NO_TURNS, "assistant_only_loss": True},
            r"marks the assistant's turns with {% gen",
        ),
        ({"chat_template": NO_END}, "no row .* ends with an EOS token that the loss is taken of, so the model would"),
        ({"chat_template": END_OUTSIDE, "assistant_only_loss": True}, r"within {% generation %} if assistant_only"),
        ({"chat_template": "{{ raise_exception('roles must alternate') }}"}, "row 1 of .* roles must alternate"),
        ({"completion_only_loss": True}, "no columns prompt and completion: it is made of conversations"),
    ],
    ids=["no marks", "no EOS", "EOS outside", "refused", "no completions"],
)
def test_what_makes_the_loss_another_one_is_one_clear_error(
    work: Workload, changes: dict[str, Any], words: str
) -> None:
    """A template without marks, an EOS that is never trained, a loss on what is not there."""
    with pytest.raises(ConfigurationError, match=words):
        examples_of(replace(work, **changes))


def test_without_a_template_conversations_are_refused(work: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the key to set."""
    tokenizer = CHAT.load_tokenizer(work)
    tokenizer.chat_template = None
    with pytest.raises(ConfigurationError, match=r"no chat template: .*\(ini key ftguard_chat_template\)"):
        CHAT.load_examples(work, tokenizer)


def test_an_eos_that_is_marked_for_the_assistant_is_found(work: Workload) -> None:
    """The template of the tests ends each turn within its marks, followed by a line break outside of them."""
    examples_of(replace(work, assistant_only_loss=True))


def test_what_is_judged_must_have_the_format_of_what_is_trained(work: Workload) -> None:
    """Otherwise the template, or the loss on completions only, would hold for one of the two."""
    with pytest.raises(ConfigurationError, match="only one of them goes through the chat template"):
        examples_of(given(work, validation=rows_of("text", 60, 1000)))
    mixed = given(work, train=rows_of("chat prompt", 60))
    with pytest.raises(ConfigurationError, match=r"only completions are trained, and .* every token would be judged"):
        examples_of(mixed)
    assert examples_of(replace(mixed, completion_only_loss=False)).validation.sequences


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"question": "a", "answer": "b"}], r"none of the columns .*; it has 'question', 'answer'; rename yours"),
        ([{"prompt": "a"}], "prompt needs completion next to it"),
        ([{"text": "a", "prompt": "b", "completion": "c"}], "not clear which to train on"),
        ([{"messages": "a"}], "row 1 of .* has a text in its column messages"),
        ([{"messages": []}], "row 1 of .* has no messages|has nothing in its column messages"),
        ([{"messages": [{"content": "a"}]}], "row 1 of .* has a message without a role"),
        ([{"text": "a"}, {"text": None}], "row 2 of .* has nothing in its column text: it must be a text"),
        ([{"text": 3}], "row 1 of .* has 3 in its column text"),
        ([{"messages": [], "image": "a"}], "has a column 'image', but the task chat trains on texts only"),
        ([{"prompt": "a", "completion": [{"role": "user", "content": "b"}]}], "of two kinds"),
    ],
)
def test_rows_of_no_format_are_refused_by_name(work: Workload, rows: list[dict[str, Any]], words: str) -> None:
    """The message names the row and its columns."""
    with pytest.raises(ConfigurationError, match=words):
        examples_of(given(work, train=rows))


def test_validation_rows_that_are_trained_on_are_counted_and_beyond_a_tenth_refused(work: Workload) -> None:
    """Copies are told by their words, whatever their case and space are, or by their tokens."""
    new = rows_of("messages", 70, start=1000)
    trained = json.loads(json.dumps(rows_of("messages", 20)).replace("What is", "WHAT  is"))
    found = examples_of(given(work, validation=[*trained[:3], *new]))
    assert found.validation.trained_on == 3
    assert found.remarks[-1] == (
        "3 of 64 validation rows are also in the training data (rows 1, 2, 3; more than a tenth is an error)"
    )
    with pytest.raises(
        ConfigurationError,
        match=r"14 of 64 rows of the validation data .* are also in the training data \(rows 1, 2, 3, 4, 5, ...\)",
    ):
        examples_of(given(work, validation=[*trained[:14], *new[:50]]))


def test_a_conversation_that_a_training_row_begins_with_is_trained_on(work: Workload) -> None:
    """As if the turns of one conversation were made rows of their own, and these divided by chance."""
    long = rows_of("messages", 60)[1]["messages"]
    assert len(long) == 4
    begun = [{"messages": long[:2]}, *rows_of("messages", 63, start=1000)]
    assert examples_of(given(work, validation=begun)).validation.trained_on == 1
    more = [{"messages": [*long, *long[:2]]}, *rows_of("messages", 63, start=1000)]
    assert examples_of(given(work, validation=more)).validation.trained_on == 0


def test_a_system_message_on_one_side_makes_no_new_conversation(work: Workload) -> None:
    """The answers are known all the same; two different system messages may ask for two different things."""

    def told(text: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"messages": [{"role": "system", "content": text}, *row["messages"]]} for row in rows]

    trained, new = rows_of("messages", 60), rows_of("messages", 61, start=1000)
    for train, validation, count in (
        (told("Be brief.", trained), trained[:3], 3),
        (trained, told("Be brief.", trained[:3]), 3),
        (told("Be brief.", trained), told("Be brief.", trained[:3]), 3),
        (told("Be brief.", trained), told("Be long.", trained[:3]), 0),
    ):
        found = examples_of(given(work, train=train, validation=[*validation, *new]))
        assert found.validation.trained_on == count


def test_rows_that_repeat_earlier_ones_are_left_out_of_the_evaluation(work: Workload) -> None:
    """A copy adds no evidence; rows that differ only beyond the block are copies for the model."""
    rows = rows_of("messages", 64, start=1000)
    found = examples_of(given(work, validation=[*rows, *rows[:10]])).validation
    assert (len(found.sequences), found.repeated) == (64, 10)
    texts = [{"text": f"{'a b c ' * 100}{number}"} for number in range(5)]
    more = rows_of("text", 64, start=1000)
    cut = examples_of(given(work, train=rows_of("text", 60), validation=[*more, *texts])).validation
    assert cut.repeated == 4


def test_a_search_is_judged_on_rows_that_no_gate_uses(work: Workload) -> None:
    """If too few are left, it says so."""
    more = replace(given(work, validation=rows_of("messages", 110, start=1000)), validation_sequences=64)
    gates, search = (examples_of(replace(more, purpose=purpose)).validation for purpose in ("gates", "search"))
    seen = {one.ids.numpy().tobytes() for one in gates.sequences}
    assert len(search.sequences) == 46
    assert not seen & {one.ids.numpy().tobytes() for one in search.sequences}
    with pytest.raises(ConfigurationError, match="needs 32 others, and 6 are left"):
        examples_of(replace(work, purpose="search"))


def test_a_reference_text_may_have_another_format(work: Workload, tmp_path: Path) -> None:
    """Its tokens count by what its own rows are."""
    general = write_rows(tmp_path / "general.jsonl", rows_of("text", 70, 3000))
    found = examples_of(replace(work, reference=general)).reference
    assert found is not None
    assert min(found.tokens) > 10


def test_fewer_rows_than_a_batch_are_refused(work: Workload) -> None:
    """Padded or packed."""
    with pytest.raises(
        ConfigurationError, match=r"gives 3 examples, fewer than a batch of 4: .* batch_size of at most 3"
    ):
        examples_of(given(work, train=rows_of("messages", 3)))
    with pytest.raises(ConfigurationError, match="packed sequences, fewer than a batch of 4"):
        examples_of(replace(given(work, train=rows_of("text", 4), validation=rows_of("text", 64, 1000)), packing=True))


def test_other_labels_are_another_order_of_batches(work: Workload, tmp_path: Path) -> None:
    """The same tokens with the loss on others of them are no longer the same work."""
    orders = [
        run_trial(
            TrialSpec(
                workload=replace(work, assistant_only_loss=only, steps=2),
                variant=Full(learning_rate=1e-3),
                seed=0,
                device="cpu",
            ),
            TrialFolder(tmp_path / str(only), 0),
            lambda *_: None,
        ).measured.data_order
        for only in (False, True)
    ]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_tokens_that_the_loss_was_taken_of_are_counted(
    work: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulated: int
) -> None:
    """Those of the batches that were trained on, without one that the loader made ahead; both variants have as many."""
    made: list[int] = []
    collate = Chat.collate

    def counted(self: Chat, items: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        batch = collate(self, items)
        made.append(int((batch["labels"][:, 1:] != -100).sum()))
        return batch

    monkeypatch.setattr(Chat, "collate", counted)
    arguments = {"gradient_accumulation_steps": accumulated}
    short = replace(work, steps=3, assistant_only_loss=True, training_args=arguments)
    found = []
    for variant in (Full(learning_rate=1e-3), LoRA(r=4, learning_rate=1e-2)):
        made.clear()
        spec = TrialSpec(workload=short, variant=variant, seed=0, device="cpu")
        folder = TrialFolder(tmp_path / variant.kind, 0)
        found.append(run_trial(spec, folder, lambda *_: None).measured.supervised_tokens)
        assert found[-1] == sum(made[: 3 * accumulated])
    assert found[0] == found[1]


def test_a_batch_of_masked_labels_ends_the_trial_with_the_reason(
    work: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever masks them: the Trainer's loss would be 0, or no number, as if the rate were too high."""
    collate = Chat.collate

    def masked(self: Chat, items: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        batch = collate(self, items)
        return {**batch, "labels": torch.full_like(batch["labels"], -100)}

    monkeypatch.setattr(Chat, "collate", masked)
    spec = TrialSpec(workload=work, variant=Full(learning_rate=1e-3), seed=0, device="cpu")
    with pytest.raises(ConfigurationError, match="no token of training batch 1 counts: its labels are all -100"):
        run_trial(spec, TrialFolder(tmp_path / "trial", 0), lambda *_: None)


def test_plain_texts_and_conversations_are_told_apart(work: Workload, tmp_path: Path) -> None:
    """The task causal-lm refuses rows and settings of conversations, and names the task that takes them."""
    plain = replace(work, task="causal-lm")
    causal = find_task("causal-lm")
    tokenizer = causal.load_tokenizer(plain)
    with pytest.raises(ConfigurationError, match="set ftguard_task = chat"):
        causal.load_examples(plain, tokenizer)
    table = tmp_path / "rows.csv"
    table.write_text("prompt,completion\na,b\n")
    with pytest.raises(ConfigurationError, match="set ftguard_task = chat"):
        causal.load_examples(replace(plain, train=str(table)), tokenizer)
    with pytest.raises(ConfigurationError, match="packing is for conversations, and the task causal-lm"):
        causal.load_examples(replace(plain, packing=True), tokenizer)


def test_losses_of_masked_and_whole_examples_are_finite_and_differ(work: Workload) -> None:
    """The mask reaches the loss that is trained."""
    whole, masked = (examples_of(replace(work, assistant_only_loss=only)).train for only in (False, True))
    model: Any = CHAT.load_model(work)
    losses = [float(model(**CHAT.collate([data[0], data[1]])).loss.detach()) for data in (whole, masked)]
    assert all(map(math.isfinite, losses))
    assert losses[0] != losses[1]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "variant",
    [
        LoRA(r=4, learning_rate=1e-2, quantization="nf4"),
        Peft("prompt_tuning", num_virtual_tokens=4, learning_rate=1e-2),
        Peft("lora", r=4, init_lora_weights=False, learning_rate=1e-2),
    ],
    ids=lambda one: one.label,
)
def test_a_start_is_explained_to_the_last_digit_also_of_short_answers_in_bf16(
    work: Workload, tmp_path: Path, variant: Variant
) -> None:
    """The base is measured in the batches of the curve: in others bf16 rounds an answer of few tokens otherwise."""
    rows = [
        {
            "prompt": f"{'why ' * (number % 7)}{number}?",
            "completion": " yes" if number % 2 else " no, " * (number % 5 + 1),
        }
        for number in range(200)
    ]
    short = given(work, train=rows[:60], validation=rows[60:])
    spec = TrialSpec(workload=replace(short, precision="bf16", steps=4), variant=variant, seed=0, device="cpu")
    start = run_trial(spec, TrialFolder(tmp_path / "trial", 0), lambda *_: None).measured.start
    assert start is not None
    assert start.disabled_gap == 0
