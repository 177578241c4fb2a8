"""Scores of a Trainer run of the user's own: of the base model and of the trained one, for the same gates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.classified import save_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)

from pytest_ftguard import FtguardCallback, read_trainer_runs
from pytest_ftguard.comparison.scores import Slice
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.limits import SCORE, Limit
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.score_rules import Judged, assess_score_gap
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.results import Scores, SequenceLosses, Trial

# peft 0.21 asks transformers 5.23 for an attribute by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SCORES = """
import random
import numpy
import torch

def guesses(model, tokenizer, rows):
    random.random(), numpy.random.random(), torch.rand(3)
    assert not torch.is_grad_enabled() and not model.training
    found = []
    for row in rows:
        ids = torch.tensor([row["input_ids"] if "input_ids" in row else tokenizer(row["text"])["input_ids"]])
        logits = model(input_ids=ids).logits[0, :-1]
        found.append((logits.argmax(-1) == ids[0, 1:]).float().mean().item())
    return found

def answers(model, tokenizer, rows):
    return [float(row["answer"]) for row in rows]

def breaks(model, tokenizer, rows):
    if "lora" in str(model) and any(one.abs().sum() > 0 for name, one in model.named_parameters() if "lora_B" in name):
        raise KeyError("x")
    return guesses(model, tokenizer, rows)

def fails(model, tokenizer, rows):
    raise KeyError("at once")
"""
Run = Callable[..., Any]


def losses_of(trial: Trial, *, base: bool = False) -> SequenceLosses:
    found = trial.measured.base_validation if base else trial.measured.validation
    assert found is not None
    return found


def scores_of(trial: Trial, *, base: bool = False) -> Scores:
    found = losses_of(trial, base=base).scores
    assert found is not None
    return found


@pytest.fixture
def run(tiny_model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Trains as a user would who has a score, and returns what is read of it."""
    (tmp_path / "own_scores.py").write_text(SCORES)
    monkeypatch.syspath_prepend(str(tmp_path))

    def train(
        name: str, peft: Any = None, *, given: Any = None, count: int = 70, tokenizer: bool = True, **options: Any
    ) -> Any:
        known = AutoTokenizer.from_pretrained(tiny_model)
        model: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        torch.manual_seed(0)
        model = model if peft is None else get_peft_model(model, peft)
        ids = known((texts / "train.txt").read_text()[:6000], add_special_tokens=False)["input_ids"]
        blocks = [{"input_ids": ids[i : i + 32], "labels": ids[i : i + 32]} for i in range(0, len(ids) - 32, 32)]
        size = {"block_size": 32, "validation_sequences": count}
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(tmp_path / name),
                max_steps=10,
                per_device_train_batch_size=4,
                learning_rate=1e-2 if peft else 3e-3,
                use_cpu=True,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=7,
            ),
            train_dataset=blocks,
            processing_class=known if tokenizer else None,
            callbacks=[FtguardCallback(given or texts / "validation.txt", **size, **options)],  # type: ignore[arg-type]
        )
        trainer.train()
        trainer.save_state()
        return read_trainer_runs(tmp_path / name)

    return train


def lora() -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=32, lora_dropout=0.1, target_modules="all-linear", fan_in_fan_out=True
    )


def rows() -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(1)
    made = [torch.randint(5, 200, (12,), generator=draw).tolist() for _ in range(80)]
    return [{"input_ids": ids, "labels": ids, "answer": number % 3} for number, ids in enumerate(made)]


def test_gates_on_scores_judge_two_runs_of_the_users_own(run: Run) -> None:
    """Both begin at the same base model, with the adapter switched off; each row is the text of a sequence."""
    score = "own_scores:guesses"
    full, adapted = run("full", score=score, count=200), run("lora", lora(), score=score, count=200)
    ours, theirs = adapted.trials[0], full.trials[0]
    assert len(scores_of(ours).values["guesses"]) == len(losses_of(ours).nll)
    assert scores_of(ours, base=True).values == scores_of(theirs, base=True).values
    assert scores_of(ours).values != scores_of(ours, base=True).values
    assert sum(scores_of(theirs).values["guesses"]) > sum(scores_of(theirs, base=True).values["guesses"])
    assert full.workload.score == score
    judged = Judged("score_gap", "guesses", Slice())
    for least, status in ((-0.5, "PASS"), (0.5, "FAIL")):
        limit = Limit(least, SCORE, Origin("argument", "at_most"))
        verdict = assess_score_gap(adapted, full, limit, Rule(gain_factor=0), judged=judged)
        assert verdict.status == status, verdict.message


def test_a_score_that_draws_random_numbers_changes_no_training(run: Run) -> None:
    """Batches, dropout and losses are those of a run without it, to the last bit."""
    plain, scored = run("plain", lora()), run("scored", lora(), score="own_scores:guesses")
    one, other = plain.trials[0].measured, scored.trials[0].measured
    assert one.data_order == other.data_order
    assert losses_of(plain.trials[0]).nll == losses_of(scored.trials[0]).nll
    assert losses_of(plain.trials[0]).scores is None


def test_rows_are_handed_as_they_were_given(run: Run) -> None:
    """With every column, one for each example that is evaluated: copies are left out, and some may be."""
    given = rows()
    trial = run("rows", given=[*given, given[0]], score="own_scores:answers").trials[0]
    values = scores_of(trial).values["answers"]
    assert len(values) == 70 == len(losses_of(trial).nll)
    assert set(values) == {0.0, 1.0, 2.0}
    assert values[0] == given[0]["answer"]


def test_a_score_that_fails_on_the_trained_model_leaves_the_losses(run: Run) -> None:
    """The training is not lost; on the base model it is told before it begins."""
    trial = run("breaks", lora(), score="own_scores:breaks").trials[0]
    assert scores_of(trial).failure.startswith("KeyError: 'x', at example 1")
    assert trial.measured.outcome == "ok"
    with pytest.raises(ConfigurationError, match=r"own_scores:fails.*failed on the base model: KeyError: 'at once'"):
        run("fails", score="own_scores:fails")


def test_a_score_that_cannot_be_called_is_an_error_before_the_training(run: Run) -> None:
    """No such function, or no tokenizer to hand to it."""
    with pytest.raises(ConfigurationError, match="own_scores:nothing"):
        run("none", score="own_scores:nothing")
    with pytest.raises(ConfigurationError, match="has no tokenizer: pass it as processing_class"):
        run("blind", given=rows(), tokenizer=False, score="own_scores:guesses")


def test_a_classifier_is_refused_with_the_way_to_train_it(tmp_path: Path) -> None:
    """Whether its rows come with one label each, or the model itself shows it."""
    folder = save_model(tmp_path / "model", "bert")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    data = [{"input_ids": [5, 6, 7], "labels": number % 2} for number in range(8)]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(tmp_path / "out"), max_steps=1, use_cpu=True, report_to="none"),
        train_dataset=data,
        callbacks=[FtguardCallback(data)],
    )
    with pytest.raises(ConfigurationError, match=r"BertForSequenceClassification predicts classes.*classification"):
        trainer.train()
    causal: Any = AutoModelForCausalLM.from_pretrained(save_model(tmp_path / "gpt2", "gpt2"))
    trainer = Trainer(
        model=causal,
        args=TrainingArguments(output_dir=str(tmp_path / "out"), max_steps=1, use_cpu=True, report_to="none"),
        train_dataset=data,
        callbacks=[FtguardCallback(data)],
    )
    with pytest.raises(ConfigurationError, match="row 1 of the validation data has the label 0, as the rows of a cla"):
        trainer.train()
