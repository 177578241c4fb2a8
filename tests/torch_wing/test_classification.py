"""The task classification: which model is made of which rows, what is measured of it, and what is wrong with rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.classified import KINDS, rows_of, save_model, write_rows
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import Measured, Trial
from pytest_ftguard.results.forms import Shipping
from pytest_ftguard.specs import Full, LoRA, Peft, TrialSpec, Variant, Workload
from pytest_ftguard.tasks import Examples
from pytest_ftguard.tasks.causal_lm.models import load_base
from pytest_ftguard.tasks.classification.data import batch_of
from pytest_ftguard.tasks.classification.model import head_of
from pytest_ftguard.tasks.classification.task import Classification
from pytest_ftguard.training.adapters import apply_variant
from pytest_ftguard.training.forecast import forecast
from pytest_ftguard.training.forms import measure_forms
from pytest_ftguard.training.kept import load_trained
from pytest_ftguard.training.trial import TrialFolder, run_trial

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]

TASK = Classification()
FULL, LORA = Full(learning_rate=3e-3), LoRA(r=4, learning_rate=1e-2)
PROMPT = Peft("prompt_tuning", num_virtual_tokens=4, learning_rate=1e-2)
IA3 = Peft("ia3", learning_rate=1e-2)
Make = Callable[[str], Path]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Folders of tiny models, each made once."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = save_model(tmp_path_factory.mktemp("classifier") / kind.replace(" ", "-"), kind)
        return made[kind]

    return make


@pytest.fixture
def work(model: Make, tmp_path: Path) -> Workload:
    """Thirty steps on two classes."""
    return Workload(
        task="classification",
        model=str(model("llama")),
        train=write_rows(tmp_path / "train.jsonl", rows_of(200)),
        validation=write_rows(tmp_path / "validation.jsonl", rows_of(90, seed=1)),
        block_size=32,
        batch_size=8,
        steps=30,
        seeds=(0,),
        precision="fp32",
        validation_sequences=80,
    )


def given(work: Workload, **rows: Sequence[Any]) -> Workload:
    """Return the workload on other rows."""
    folder = Path(work.train).parent
    places = {role: write_rows(folder / f"{role}-other.jsonl", data) for role, data in rows.items()}
    return replace(work, **places)  # type: ignore[arg-type]


def examples_of(work: Workload) -> Examples:
    return TASK.load_examples(work, TASK.load_tokenizer(work))


def run(work: Workload, variant: Variant, folder: Path) -> Trial:
    return run_trial(
        TrialSpec(workload=work, variant=variant, seed=0, device="cpu"), TrialFolder(folder, None), lambda *_: None
    )


def measured(work: Workload, variant: Variant, folder: Path) -> Measured:
    found = run(work, variant, folder).measured
    assert found.outcome == "ok", found.error
    assert found.validation is not None
    assert found.validation.answers is not None
    assert found.base_validation is not None
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", [FULL, LORA], ids=["full", "lora"])
def test_every_kind_begins_with_one_new_head_and_trains_all_of_it(
    work: Workload, model: Make, tmp_path: Path, kind: str, variant: Variant
) -> None:
    """Also the pooler if the checkpoint has none; what is loaded again has the losses that were measured."""
    ours = replace(work, model=str(model(kind)), steps=4)
    heads: list[Any] = [TASK.load_model(ours) for _ in range(2)]
    for (name, one), (_, other) in zip(heads[0].named_parameters(), heads[1].named_parameters(), strict=True):
        assert one.equal(other), name
    head = heads[0].trained_whole
    assert (
        set(head)
        == {
            "bert": {"classifier"},
            "bert without pooler": {"classifier", "pooler"},
            "distilbert": {"classifier", "pre_classifier"},
            "gpt2": {"score"},
            "llama": {"score"},
        }[kind]
    )
    result = run(ours, variant, tmp_path)
    found = result.measured
    assert found.outcome == "ok", found.error
    assert found.start is not None
    assert found.start.base_gap == pytest.approx(0, abs=1e-6)
    assert found.updates is not None
    assert found.updates.unmoved == found.updates.base_changed == ()
    loaded, tokenizer = load_trained(result.spec, str(result.provenance.model_dir))
    before = dict(heads[0].named_parameters())
    for name, parameter in loaded.named_parameters():
        plain = name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")
        if plain.split(".")[0] in head and "original_module" not in name and "lora" not in name:
            assert not parameter.equal(before[plain.replace(".base_layer", "")]), name
    again = TASK.losses(loaded, TASK.load_examples(ours, tokenizer).validation, batch_size=16, bf16=False)
    assert again == found.validation


def test_losses_and_classes_are_those_of_a_plain_loop(work: Workload, tmp_path: Path) -> None:
    """One text at a time by transformers' class on the same weights, and in batches by a plain Trainer's predict."""
    result = run(replace(work, validation_sequences=90), FULL, tmp_path / "trial")
    found = result.measured.validation
    assert found is not None
    assert found.answers is not None
    model, tokenizer = load_trained(result.spec, str(result.provenance.model_dir))
    model.save_pretrained(tmp_path / "plain")  # type: ignore[operator]
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    assert plain.config.id2label == {0: "neg", 1: "pos"}
    rows = rows_of(90, seed=1)
    nll, predicted = [], []
    for row in rows:
        with torch.no_grad():
            logits = plain(**tokenizer(row["text"], return_tensors="pt")).logits[0]
        label = plain.config.label2id[row["label"]]
        nll.append(float(-logits.log_softmax(-1)[label]))
        predicted.append(int(logits.argmax()))
    assert found.nll == pytest.approx(nll, abs=1e-5)
    assert found.answers.predicted == tuple(predicted)
    right = [plain.config.label2id[row["label"]] == one for row, one in zip(rows, predicted, strict=True)]
    assert found.answers.accuracy == sum(right) / 90 > 0.9
    assert found.tokens == (1,) * 90
    inputs: Any = [{**tokenizer(row["text"]), "labels": plain.config.label2id[row["label"]]} for row in rows]
    arguments = TrainingArguments(str(tmp_path / "trainer"), report_to="none", use_cpu=True, disable_tqdm=True)
    trainer = Trainer(plain, arguments, data_collator=DataCollatorWithPadding(tokenizer))
    answered: Any = trainer.predict(inputs).predictions
    assert found.answers.predicted == tuple(answered.argmax(-1).tolist())


@pytest.mark.parametrize("variant", [PROMPT, IA3], ids=["prompt", "ia3"])
def test_other_methods_train_the_head_too(work: Workload, tmp_path: Path, variant: Variant) -> None:
    """A prompt is followed by the text, and its start is explained by the base without it."""
    found = measured(work, variant, tmp_path)
    assert found.validation is not None
    assert found.base_validation is not None
    assert found.validation.loss < found.base_validation.loss
    assert found.start is not None
    assert found.start.disabled_gap in (None, 0)


def test_a_method_that_trains_the_head_too_is_chosen_as_advised(
    work: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing would be learned but what the adapter can do to a random head."""
    base = TASK.load_model(work)
    apply = LORA.__class__
    assert apply is LoRA

    def frozen(model: Any, variant: Any, configure: Any) -> nn.Module:
        from peft import LoraConfig, get_peft_model

        return get_peft_model(model, LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["q_proj"]))

    with monkeypatch.context() as changed:
        changed.setattr("pytest_ftguard.training.adapters.lora.wrap", frozen)
        words = r"lora r=4 would leave the new head .* \(score\).*: choose a method that trains it too"
        with pytest.raises(ConfigurationError, match=words):
            apply_variant(base, LORA)
    apply_variant(TASK.load_model(work), LORA)


@pytest.mark.parametrize("variant", [FULL, LORA], ids=["full", "lora"])
def test_the_forecast_is_the_peak_of_the_training(work: Workload, tmp_path: Path, variant: Variant) -> None:
    """Of a block that cuts every row, each batch is the largest."""
    long = [[{**row, "text": f"{row['text']} and so on and on"} for row in rows_of(100, seed)] for seed in (0, 1)]
    short = replace(given(work, train=long[0], validation=long[1]), block_size=16, steps=4)
    found = measured(short, variant, tmp_path).memory
    assert found is not None
    foretold = forecast(TrialSpec(workload=short, variant=variant, seed=0, device="cpu")).forecast_bytes
    assert foretold == pytest.approx(found.peak_bytes, rel=0.02)


def test_the_merged_classifier_is_the_trained_one(work: Workload, tmp_path: Path) -> None:
    """Saved, merged and loaded again, with its head."""
    result = run(work, LORA, tmp_path)
    assert result.measured.validation is not None
    saved, merged, rounded = measure_forms(result.spec, tmp_path / "model", tmp_path, Shipping())
    assert saved.nll == result.measured.validation.nll
    assert merged.nll == pytest.approx(result.measured.validation.nll, abs=1e-4)
    assert rounded.nll == pytest.approx(result.measured.validation.nll, abs=0.1)
    assert saved.changed == merged.changed == rounded.changed == ()


def test_a_head_that_knows_the_classes_is_kept(work: Workload, tmp_path: Path) -> None:
    """By name or by number; one of other classes is replaced."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, id2label={0: "pos", 1: "neg", 2: "neutral"},
    )  # fmt: skip
    own = BertForSequenceClassification(config)
    own.save_pretrained(tmp_path / "own")
    TASK.load_tokenizer(work).save_pretrained(tmp_path / "own")
    ours = replace(work, model=str(tmp_path / "own"))
    kept: Any = TASK.load_model(ours)
    assert kept.classifier.weight.equal(own.classifier.weight)
    labels = {example.label for example in examples_of(ours).validation.sequences}
    assert labels == {0, 1}
    assert examples_of(ours).validation.sequences[0].label == ["pos", "neg"].index(rows_of(1, seed=1)[0]["label"])
    numbered = [{**row, "label": int(row["label"] == "pos") + 1} for row in rows_of(200)]
    by_number = given(ours, train=numbered, validation=numbered[:80])
    numbered_model: Any = TASK.load_model(by_number)
    assert numbered_model.classifier.weight.equal(own.classifier.weight)
    other = [{**row, "label": f"is {row['label']}"} for row in rows_of(200)]
    replaced: Any = TASK.load_model(given(ours, train=other))
    assert replaced.classifier.weight.shape == (2, 32)
    assert replaced.config.id2label == {0: "is neg", 1: "is pos"}


def test_pairs_are_told_apart_and_padding_changes_nothing(work: Workload, model: Make) -> None:
    """Both texts are in the tokens; an example has the same loss alone and next to longer ones."""
    pairs = [{**row, "text_pair": f"than {number}"} for number, row in enumerate(rows_of(200))]
    ours = given(work, train=pairs, validation=[{**row, "text_pair": "x"} for row in rows_of(90, seed=1)])
    tokenizer = TASK.load_tokenizer(ours)
    examples = examples_of(ours)
    assert "than 0" in tokenizer.decode(examples.train[0]["input_ids"])
    for kind in KINDS:
        classifier = TASK.load_model(replace(work, model=str(model(kind))))
        some = examples_of(work).validation.sequences[:12]
        together = TASK.nll(classifier, some, batch_size=12, bf16=False)
        alone = [TASK.nll(classifier, [one], batch_size=1, bf16=False)[0] for one in some]
        assert together == pytest.approx(alone, rel=1e-5)
    batch = batch_of([examples.train[0], examples.train[1]])
    assert batch["labels"].shape == (2,)
    assert batch["attention_mask"].shape == batch["input_ids"].shape


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": "a", "stars": 1}] * 9, "has no column named label: its columns are 'text', 'stars'"),
        ([{"text": "a", "label": None}, *rows_of(20)], "row 1 of .* has None in its column label"),
        ([*rows_of(20), {"text": " ", "label": "pos"}], "row 21 of .* has ' ' in its column text"),
        ([{"text": "a", "label": 0.5}] * 9, "row 1 of .* has 0.5 in its column label: it must be a whole number or"),
        ([{"text": f"a{n}", "label": "pos"} for n in range(9)], r"has one class only \('pos'\)"),
        ([{"text": f"a{n}", "label": f"id {n}"} for n in range(40)], "40 different labels in 40 rows, so they are no"),
        (rows_of(5), "has 5 rows, fewer than a batch of 8"),
    ],
    ids=["column", "no label", "no text", "fraction", "one class", "no classes", "few"],
)
def test_training_rows_that_cannot_be_classified_are_refused(work: Workload, rows: Sequence[Any], words: str) -> None:
    """The message names the column or the row, counted from 1."""
    with pytest.raises(ConfigurationError, match=words):
        examples_of(given(work, train=rows))


def test_validation_rows_are_checked_against_the_training_rows(work: Workload) -> None:
    """A class that is never trained, rows that are trained on, copies, and a class that is never judged."""
    odd = [*rows_of(70, seed=1), {"text": "meh", "label": "neutral"}]
    with pytest.raises(ConfigurationError, match=r"1 rows of .* have a label that no .* \('neutral'; row 71\)"):
        examples_of(given(work, validation=odd))
    with pytest.raises(ConfigurationError, match=r"80 of 80 rows of .* are also in the training data"):
        examples_of(given(work, validation=rows_of(200)[:150]))
    relabelled = [{**row, "label": "pos"} for row in rows_of(200)]
    with pytest.raises(ConfigurationError, match=r"80 of 80 rows of .* are also in the training data"):
        examples_of(given(work, validation=relabelled))
    twice = examples_of(given(work, validation=[*rows_of(40, seed=1), *rows_of(40, seed=1)])).validation
    assert (len(twice.sequences), twice.repeated) == (40, 40)
    one_sided = [row for row in rows_of(200, seed=1) if row["label"] == "pos"]
    remarks = examples_of(given(work, validation=one_sided)).remarks
    assert "no validation example has the label 'neg', so it is trained and never judged" in remarks


@pytest.mark.parametrize("kind", [float, bool])
def test_fractions_without_a_rest_and_yes_and_no_are_whole_numbers(work: Workload, kind: Callable[[bool], Any]) -> None:
    """The library reads a column with a gap as fractions; the classes are those of whole numbers all the same."""
    rows = [{**row, "label": kind(row["label"] == "pos")} for row in rows_of(200)]
    whole = [{**row, "label": int(row["label"] == "pos")} for row in rows_of(90, seed=1)]
    found = examples_of(given(work, train=rows, validation=whole)).validation
    assert {example.label for example in found.sequences} == {0, 1}


@pytest.mark.parametrize("name", ["packing", "assistant_only_loss"])
def test_fields_of_conversations_are_refused(work: Workload, name: str) -> None:
    """They would change nothing."""
    with pytest.raises(ConfigurationError, match=f"{name} is for conversations, and the task classification reads"):
        examples_of(replace(work, **{name: True}))  # type: ignore[arg-type]


def test_a_model_of_sentence_transformers_is_an_encoder(work: Workload, model: Make, tmp_path: Path) -> None:
    """Its own files are next to the encoder's; a causal language model is something else."""
    folder = save_model(tmp_path / "sentences", "bert")
    (folder / "modules.json").write_text("[]")
    assert TASK.load_model(replace(work, model=str(folder))).base_model_prefix == "bert"
    with pytest.raises(ConfigurationError, match="sentence-transformers model"):
        load_base(replace(work, model=str(folder)))
    config = T5Config(vocab_size=384, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    TASK.load_tokenizer(work).save_pretrained(tmp_path / "t5")
    with pytest.raises(ConfigurationError, match=r"sequence-to-sequence model \(t5\): give an encoder or a decoder"):
        TASK.load_model(replace(work, model=str(tmp_path / "t5")))


def test_a_head_that_cannot_be_told_from_its_base_is_refused() -> None:
    """All of the model would count as its new head, and weights that its checkpoint lacks would be random."""
    whole = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ConfigurationError, match="Sequential has no part named '', so its head cannot be told"):
        head_of(whole)
