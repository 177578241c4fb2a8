"""A trial trains, measures everything, and is fair between variants."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plain.builders import GivenSource
from transformers.utils import is_liger_kernel_available  # type: ignore[attr-defined]

from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError, FtguardError
from pytest_ftguard.results import BaseLosses, TrainedVariant, Trial
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload
from pytest_ftguard.training import machine
from pytest_ftguard.training.kept import load_trained
from pytest_ftguard.training.recorder import curve_sequences, curve_steps
from pytest_ftguard.training.trial import TrialFolder, run_trial

FULL = Full(learning_rate=1e-3)
LORA = LoRA(r=4, learning_rate=1e-2)


def train(workload: Workload, variant: Variant, folder: Path, *, seed: int = 0, **options: Any) -> Trial:
    spec = TrialSpec(workload=workload, variant=variant, seed=seed, device="cpu")
    return run_trial(spec, TrialFolder(folder, None), options.pop("report", lambda *_: None), **options)


@pytest.fixture(scope="module")
def full(workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return train(workload, FULL, tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def lora(workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return train(workload, LORA, tmp_path_factory.mktemp("lora"))


def test_both_variants_start_equal_and_see_the_same_batches(full: Trial, lora: Trial) -> None:
    """Step-0 losses, data order and evaluation sequences agree; the losses after training do not."""
    assert full.measured.curve[0].step == lora.measured.curve[0].step == 0
    assert full.measured.curve[0].nll == pytest.approx(lora.measured.curve[0].nll, rel=1e-6)
    assert full.measured.data_order == lora.measured.data_order
    assert full.measured.validation is not None
    assert lora.measured.validation is not None
    assert full.measured.validation.digest == lora.measured.validation.digest
    assert full.measured.validation.loss != lora.measured.validation.loss


def test_training_improves_on_the_base_model(full: Trial) -> None:
    """The base model's losses are those of the untrained weights, on the same sequences."""
    assert full.measured.validation is not None
    assert full.measured.base_validation is not None
    assert full.measured.validation.loss < full.measured.base_validation.loss - 0.1
    assert full.measured.base_validation.digest == full.measured.validation.digest


def test_a_result_is_complete_and_survives_json(full: Trial) -> None:
    """Parameters, memory, time, curve and environment are measured, and nothing is lost in writing."""
    assert full.measured.outcome == "ok"
    assert full.measured.parameters is not None
    assert full.measured.parameters.total == full.measured.parameters.trainable
    assert full.measured.memory is not None
    assert full.measured.memory.method == "live tensors"
    assert full.measured.memory.peak_bytes is not None
    assert full.measured.memory.peak_bytes > 16 * full.measured.parameters.total
    parts = full.measured.memory.breakdown
    assert parts is not None
    weights = 4 * full.measured.parameters.total
    # Buffers and the rounding of small tensors come on top.
    assert weights <= parts.weights_bytes == pytest.approx(weights, rel=0.1)
    assert weights <= parts.gradients_bytes == pytest.approx(weights, rel=0.1)
    assert 2 * weights <= parts.optimizer_bytes == pytest.approx(2 * weights, rel=0.15)
    assert 0 < parts.activations_bytes < full.measured.memory.peak_bytes - parts.weights_bytes - parts.optimizer_bytes
    assert full.measured.time is not None
    assert full.measured.time.seconds_per_step is not None
    assert full.measured.time.measured_steps == 12 - 3
    assert full.measured.time.seconds_spread is not None
    assert full.measured.time.tokens_per_second == pytest.approx(4 * 32 / full.measured.time.seconds_per_step)
    assert full.measured.time.share_of_machine is not None
    assert 0 < full.measured.time.share_of_machine < 1
    assert full.measured.memory.phases is not None
    assert set(full.measured.memory.phases) == {"load", "train", "evaluate"}
    # The growth: the process itself, with its libraries, takes more than twice that.
    assert all(0 <= growth < 200e6 for growth in full.measured.memory.phases.values())
    assert [point.step for point in full.measured.curve] == [0, 1, 3, 6, 12]
    assert full.measured.environment is not None
    assert full.measured.environment.device == "cpu"
    assert Trial.from_dict(full.to_dict()) == full


def test_the_arithmetic_of_a_step_is_counted(full: Trial, lora: Trial) -> None:
    """Six operations a parameter and token in full fine-tuning and its attention; about four and the adapters' in LoRA.

    Attention has two products of (block x width) matrices a layer, and five in the backward pass (Dao et al., 2022).
    """
    assert full.measured.time is not None
    assert lora.measured.time is not None
    assert full.measured.time.flop_per_step is not None
    assert lora.measured.time.flop_per_step is not None
    layers, width, vocabulary, tokens = 2, 32, 384, 4 * 32
    products = layers * 12 * width**2 + width * vocabulary  # the parameters that stand in matrix products
    attention = layers * 7 * 2 * tokens * 32 * width
    assert full.measured.time.flop_per_step == 6 * products * tokens + attention
    assert 0.6 < lora.measured.time.flop_per_step / full.measured.time.flop_per_step < 0.95


def test_the_same_seed_gives_the_same_losses_and_another_seed_another_order(
    workload: Workload, full: Trial, tmp_path: Path
) -> None:
    """A trial on the CPU is repeatable to the last bit."""
    again = train(workload, FULL, tmp_path)
    other = train(workload, FULL, tmp_path, seed=1)
    assert full.measured.validation is not None
    assert again.measured.validation is not None
    assert again.measured.validation.nll == full.measured.validation.nll
    assert other.measured.data_order != full.measured.data_order


def test_base_losses_of_an_earlier_trial_are_taken_over(workload: Workload, full: Trial, tmp_path: Path) -> None:
    """With the base model's losses given, no trial measures them again."""
    assert full.measured.base_validation is not None
    phases: list[tuple[str, int]] = []
    base = BaseLosses(
        replace(full.measured.base_validation, nll=tuple(1.0 for _ in full.measured.base_validation.nll)), None
    )
    result = train(workload, LORA, tmp_path, base=base, report=lambda phase, step, _: phases.append((phase, step)))
    assert result.measured.base_validation == base.validation
    assert ("evaluate", 0) not in phases
    assert ("evaluate", 12) in phases


@pytest.mark.parametrize("variant", [FULL, LORA])
def test_the_kept_model_has_the_loss_that_was_measured(workload: Workload, variant: Variant, tmp_path: Path) -> None:
    """Loading a trained model back gives the reported validation loss."""
    result = train(workload, variant, tmp_path)
    source = GivenSource(load=lambda trial: load_trained(trial.spec, trial.provenance.model_dir or ""))
    trained = TrainedVariant(workload, variant, (result,), source=source)
    model, tokenizer = trained.load()
    ids = torch.tensor(tokenizer(Path(workload.validation).read_text(), add_special_tokens=False)["input_ids"][:32])
    with torch.no_grad():
        loss = float(model(input_ids=ids[None], labels=ids[None]).loss)
    assert result.measured.validation is not None
    assert loss * 31 == pytest.approx(result.measured.validation.nll[0], rel=1e-4)


EVIL = "import pathlib\npathlib.Path({place!r}).touch()\nfrom transformers import GPT2LMHeadModel as Model\n"


@pytest.mark.parametrize("variant", [FULL, LORA])
def test_what_lies_beside_kept_weights_never_runs(
    workload: Workload, variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes there chooses no code, where the base's is trusted too, and no module for an adapter to import."""
    trusting = replace(workload, model_args={"trust_remote_code": True})
    folder = Path(str(train(trusting, variant, tmp_path).provenance.model_dir))
    monkeypatch.syspath_prepend(str(folder))
    for name in ("evil.py", "evil_core.py"):
        (folder / name).write_text(EVIL.format(place=str(tmp_path / "ran")))
    changes: dict[str, dict[str, Any]] = {
        "config.json": {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
        "adapter_config.json": {"megatron_config": {"x": 1}, "megatron_core": "evil_core"},
    }
    for name, change in changes.items():
        if (folder / name).exists():
            content = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({**content, **change}))
    model, _ = load_trained(TrialSpec(workload=trusting, variant=variant, seed=0, device="cpu"), str(folder))
    assert not model.training
    assert not (tmp_path / "ran").exists()


REMOTE = """
from transformers import GPT2Config, GPT2LMHeadModel

class RemoteConfig(GPT2Config):
    model_type = "ftguard-remote"

class RemoteModel(GPT2LMHeadModel):
    config_class = RemoteConfig
"""


@pytest.mark.parametrize("variant", [FULL, LORA])
def test_a_model_with_code_of_its_own_is_trained_and_loaded(
    workload: Workload, variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `trust_remote_code` is set; the code comes from the base model's folder."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    base = tmp_path / "base"
    shutil.copytree(workload.model, base)
    (base / "remote.py").write_text(REMOTE)
    config = json.loads((base / "config.json").read_text())
    own = {"AutoConfig": "remote.RemoteConfig", "AutoModelForCausalLM": "remote.RemoteModel"}
    (base / "config.json").write_text(json.dumps({**config, "model_type": "ftguard-remote", "auto_map": own}))
    remote = replace(workload, model=str(base), model_args={"trust_remote_code": True})
    result = train(remote, variant, tmp_path)
    model, _ = load_trained(result.spec, result.provenance.model_dir or "")
    assert "RemoteModel" in {type(module).__name__ for module in model.modules()}


def test_weights_beyond_the_bound_are_not_kept(workload: Workload, tmp_path: Path) -> None:
    """A bound of one byte keeps nothing, and loading says what to set."""
    spec = TrialSpec(workload=workload, variant=FULL, seed=0, device="cpu")
    result = run_trial(spec, TrialFolder(tmp_path, 1), lambda *_: None)
    assert result.provenance.model_dir is None
    with pytest.raises(FtguardError, match=r"they take 159 kB, more than keep_models allows: set ftguard_keep_models"):
        TrainedVariant(workload, FULL, (result,), source=GivenSource()).load()


def test_weights_that_cannot_be_saved_are_told_by_their_error(
    workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial is measured all the same, and loading names the reason, not a setting that would not help."""
    from transformers import GPT2LMHeadModel

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(GPT2LMHeadModel, "save_pretrained", refuse)
    result = train(workload, FULL, tmp_path)
    assert result.measured.outcome == "ok"
    with pytest.raises(FtguardError, match="saving them failed with OSError: No space left on device"):
        TrainedVariant(workload, FULL, (result,), source=GivenSource()).load()


def test_a_diverging_trial_is_an_outcome_that_names_the_step(workload: Workload, tmp_path: Path) -> None:
    """A learning rate that blows the weights up ends the trial as diverged."""
    wild = replace(workload, training_args={"max_grad_norm": 0.0, "optim": "sgd"})
    result = train(wild, Full(learning_rate=1e30), tmp_path)
    assert result.measured.outcome == "diverged"
    assert result.measured.error is not None
    assert "step" in result.measured.error.message
    assert result.measured.validation is None


def test_running_out_of_memory_is_an_outcome(
    workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU allocator's refusal, provoked by an allocation of a petabyte in the model, ends the trial only."""
    from transformers import GPT2LMHeadModel

    monkeypatch.setattr(GPT2LMHeadModel, "forward", lambda *_, **__: torch.empty(1 << 50))
    result = train(workload, FULL, tmp_path)
    assert result.measured.outcome == "out_of_memory"
    assert result.measured.error is not None
    assert result.measured.error.message == "the CPU's allocator could not get 4504 TB"


def test_a_training_that_will_not_fit_is_not_started(
    workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On both sides of the boundary: what is forecast decides, and only where that is asked for."""
    measured = train(workload, FULL, tmp_path).measured.memory
    assert measured is not None
    assert measured.peak_bytes is not None
    phases: list[str] = []

    def run(available: int, **options: Any) -> Trial:
        phases.clear()
        monkeypatch.setattr(machine, "memory_bytes", lambda _: available)
        return train(workload, FULL, tmp_path, report=lambda phase, *_: phases.append(phase), **options)

    assert (
        run(int(0.96 * measured.peak_bytes), foretell=True).measured.outcome == "ok"
    )  # within the forecast's own tolerance
    hopeless = run(int(0.94 * measured.peak_bytes), foretell=True)
    assert hopeless.measured.outcome == "out_of_memory"
    assert "train" not in phases
    assert hopeless.measured.error is not None
    assert "is forecast at 2.06 MB, and" in hopeless.measured.error.message
    assert "so it was not started" in hopeless.measured.error.message
    assert hopeless.measured.memory is not None
    assert hopeless.measured.memory.forecast_bytes == pytest.approx(measured.peak_bytes, rel=0.01)
    assert run(1).measured.outcome == "ok"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"learning_rte": 1}, "'learning_rte'"),
        ({"optim": "adamwww"}, "adamwww"),
        pytest.param(
            {"use_liger_kernel": True},
            "liger-kernel is not installed",
            marks=pytest.mark.skipif(is_liger_kernel_available(), reason="liger-kernel is installed"),
        ),
    ],
)
def test_training_arguments_that_the_trainer_refuses_are_named(
    workload: Workload, tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    """An unknown name, an unknown value and a missing package are errors of configuration."""
    with pytest.raises(ConfigurationError, match=words):
        train(replace(workload, training_args=arguments), FULL, tmp_path)


def test_training_arguments_reach_the_trainer(workload: Workload, full: Trial, tmp_path: Path) -> None:
    """With two micro-batches a step the same steps see twice the data."""
    result = train(replace(workload, training_args={"gradient_accumulation_steps": 2}), FULL, tmp_path)
    assert result.measured.outcome == "ok"
    assert result.measured.data_order != full.measured.data_order
    assert result.measured.time is not None
    assert result.measured.time.measured_steps == 9


def test_bf16_keeps_fp32_weights_and_starts_both_variants_equal(workload: Workload, tmp_path: Path) -> None:
    """Autocast changes the arithmetic, not the stored weights, and zero adapters change nothing."""
    mixed = replace(workload, precision="bf16")
    ours, theirs = train(mixed, LORA, tmp_path / "a"), train(mixed, FULL, tmp_path / "b")
    assert ours.measured.environment is not None
    assert ours.measured.environment.precision == "bf16"
    assert abs(ours.measured.curve[0].loss - theirs.measured.curve[0].loss) <= 5e-3
    model, _ = load_trained(theirs.spec, theirs.provenance.model_dir or "")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_device_that_is_not_there_is_named(workload: Workload, tmp_path: Path) -> None:
    """A device of torch that this machine lacks is told apart from a word that is no device."""
    with pytest.raises(DeviceUnavailableError, match="xpu"):
        run_trial(
            TrialSpec(workload=workload, variant=FULL, seed=0, device="xpu"),
            TrialFolder(tmp_path, None),
            lambda *_: None,
        )
    with pytest.raises(ConfigurationError, match="gpuu"):
        run_trial(
            TrialSpec(workload=workload, variant=FULL, seed=0, device="gpuu"),
            TrialFolder(tmp_path, None),
            lambda *_: None,
        )


@pytest.mark.parametrize("steps", [1, 2, 30, 400, 500])
def test_the_curve_starts_at_0_ends_at_the_last_step_and_halves(steps: int) -> None:
    """Distances are halved from the last step down to the first."""
    points = curve_steps(steps)
    assert points[0] == 0
    assert points[-1] == steps
    assert list(points) == sorted(set(points))
    assert all(high // 2 == low or low == 0 for low, high in pairwise(points))


@pytest.mark.parametrize(("steps", "batch"), [(30, 4), (400, 16), (5000, 32)])
def test_the_curve_costs_a_tenth_of_the_training_or_the_minimum(steps: int, batch: int) -> None:
    """In forward passes: a training pass over a sequence is worth three."""
    sequences = curve_sequences(steps, batch, 10**9)
    cost = sequences * (len(curve_steps(steps)) - 1)
    assert sequences == 8 or cost <= 0.1 * 3 * steps * batch
    assert math.isfinite(cost)
