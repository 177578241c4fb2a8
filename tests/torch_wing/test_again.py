"""Trained weights that are evaluated on other examples come to what a training with these examples comes to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import BaseLosses, Trial
from pytest_ftguard.running import work
from pytest_ftguard.running.executor import MeasureJob
from pytest_ftguard.specs import Full, LoRA, Peft, TrialSpec, Variant, Workload
from pytest_ftguard.training.again import OtherWeightsError, measure_again
from pytest_ftguard.training.trial import TrialFolder, run_trial

FULL = Full(learning_rate=1e-3)
LORA = LoRA(r=4, learning_rate=1e-2)


def trained(workload: Workload, variant: Variant, folder: Path) -> Trial:
    spec = TrialSpec(workload=workload, variant=variant, seed=0, device="cpu")
    return run_trial(spec, TrialFolder(folder, None), lambda *_: None)


@pytest.fixture
def other(workload: Workload, tmp_path: Path) -> Workload:
    """The workload with fewer sequences and a general text."""
    text = Path(workload.validation).read_text(encoding="utf-8")
    (tmp_path / "general.txt").write_text(text[::-1], encoding="utf-8")
    return replace(workload, validation_sequences=40, reference=str(tmp_path / "general.txt"))


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        (FULL, {}),
        (FULL, {"precision": "bf16"}),
        (FULL, {"model_args": {"attn_implementation": "eager"}}),
        (LORA, {}),
        (LORA, {"precision": "bf16"}),
        (replace(LORA, options={"init_lora_weights": "pissa"}), {}),
        (replace(LORA, dropout=0.1, bias="all", options={"use_dora": True, "modules_to_save": ["ln_f"]}), {}),
        (Peft("ia3", learning_rate=1e-2), {}),
        (Peft("prompt_tuning", num_virtual_tokens=4, learning_rate=1e-2), {}),
    ],
    ids=str,
)
def test_the_losses_are_those_of_a_training_on_these_examples(
    workload: Workload, other: Workload, tmp_path: Path, variant: Variant, changes: dict[str, Any]
) -> None:
    """Digit by digit, of the model and of its base, with other random numbers drawn in between."""
    first = trained(replace(workload, **changes), variant, tmp_path / "first")
    assert first.measured.probe is not None
    spec = TrialSpec(workload=replace(other, **changes), variant=variant, seed=0, device="cpu")
    torch.manual_seed(99)
    again = measure_again(spec, tmp_path / "first", first.measured.probe)
    fresh = trained(spec.workload, variant, tmp_path / "fresh")
    assert again.measured.validation == fresh.measured.validation
    assert again.measured.base_validation == fresh.measured.base_validation
    assert again.measured.reference == fresh.measured.reference
    assert again.measured.base_reference == fresh.measured.base_reference
    assert again.measured.reference is not None
    assert again.measured.environment == fresh.measured.environment
    assert first.measured.probe == fresh.measured.probe


def test_given_losses_of_the_base_are_not_measured(workload: Workload, other: Workload, tmp_path: Path) -> None:
    """They are passed on as they are."""
    first = trained(workload, LORA, tmp_path / "first")
    assert first.measured.validation is not None
    assert first.measured.probe is not None
    base = BaseLosses(first.measured.validation, None)
    spec = TrialSpec(workload=other, variant=LORA, seed=0, device="cpu")
    again = measure_again(spec, tmp_path / "first", first.measured.probe, base)
    assert again.measured.base_validation == base.validation


def test_weights_of_another_model_are_refused(workload: Workload, other: Workload, tmp_path: Path) -> None:
    """Whatever went wrong when they were put together: no loss of them is given, by the job neither."""
    first = trained(workload, LORA, tmp_path / "first")
    assert first.measured.probe is not None
    file = tmp_path / "first" / "model" / "adapter_model.safetensors"
    save_file({name: value + 0.02 for name, value in load_file(file).items()}, file)
    spec = TrialSpec(workload=other, variant=LORA, seed=0, device="cpu")
    with pytest.raises(OtherWeightsError, match="their loss on the first training examples is"):
        measure_again(spec, tmp_path / "first", first.measured.probe)
    answer = work.carry_out(MeasureJob(spec=spec, folder=tmp_path / "first", probe=first.measured.probe))
    assert answer.result is None
    assert answer.failure is not None
    assert answer.failure.kind == "crashed"


def test_examples_that_were_trained_on_are_refused(workload: Workload, tmp_path: Path) -> None:
    """As before a training."""
    first = trained(workload, LORA, tmp_path / "first")
    assert first.measured.probe is not None
    text = Path(workload.train).read_text(encoding="utf-8")
    (tmp_path / "leak.txt").write_text(text[:8000], encoding="utf-8")
    leaking = replace(workload, validation=str(tmp_path / "leak.txt"))
    spec = TrialSpec(workload=leaking, variant=LORA, seed=0, device="cpu")
    with pytest.raises(ConfigurationError, match="are also in the training text"):
        measure_again(spec, tmp_path / "first", first.measured.probe)


def test_a_trial_without_weights_has_no_probe(workload: Workload, tmp_path: Path) -> None:
    """There is nothing that would be loaded."""
    spec = TrialSpec(workload=workload, variant=LORA, seed=0, device="cpu")
    assert run_trial(spec, TrialFolder(tmp_path, 0), lambda *_: None).measured.probe is None
