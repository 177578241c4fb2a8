"""The forecast of a training's memory is what the training then takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, masking_utils

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import Memory
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload
from pytest_ftguard.training.forecast import NoForecastError, forecast, plan_trial
from pytest_ftguard.training.trial import TrialFolder, run_trial

# Its new name is not known to the lowest transformers that is promised.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")

FULL, LORA = Full(learning_rate=1e-3), LoRA(r=4, learning_rate=1e-2)


def both(workload: Workload, variant: Variant, folder: Path) -> tuple[Memory, Memory]:
    spec = TrialSpec(workload=replace(workload, steps=4), variant=variant, seed=0, device="cpu")
    measured = run_trial(spec, TrialFolder(folder, 0), lambda *_: None).measured.memory
    assert measured is not None
    return forecast(spec), measured


@pytest.mark.parametrize("variant", [FULL, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"gradient_checkpointing": True},
        {"gradient_accumulation_steps": 2},
        {"optim": "sgd"},
        {"optim": "adafactor"},
        {"max_grad_norm": 0.0},
    ],
    ids=lambda arguments: ",".join(arguments) or "plain",
)
def test_it_is_the_peak_of_live_tensors_to_a_hundredth(
    workload: Workload, tmp_path: Path, variant: Variant, arguments: dict[str, Any]
) -> None:
    """Whatever changes the memory of both: checkpointing, accumulation, another optimizer, no clipping."""
    foretold, measured = both(replace(workload, training_args=arguments), variant, tmp_path)
    assert (foretold.method, foretold.peak_bytes) == ("forecast", None)
    assert foretold.forecast_bytes == pytest.approx(measured.peak_bytes, rel=0.01)
    assert foretold.breakdown is not None
    assert measured.breakdown is not None
    for part in ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes"):
        # The small model's small tensors, such as a step's count, are a larger share of it than of a real one.
        ours, theirs = getattr(foretold.breakdown, part), getattr(measured.breakdown, part)
        assert ours == pytest.approx(theirs, rel=0.02, abs=8192), part
    assert foretold.breakdown.peak_stage == measured.breakdown.peak_stage


@pytest.mark.parametrize("variant", [FULL, LORA], ids=["full", "lora"])
def test_it_knows_autocast(workload: Workload, tmp_path: Path, variant: Variant) -> None:
    """Under bf16 autocast copies of the weights come and activations shrink."""
    foretold, measured = both(replace(workload, precision="bf16"), variant, tmp_path)
    assert foretold.forecast_bytes == pytest.approx(measured.peak_bytes, rel=0.05)


def test_it_follows_the_attention_that_was_asked_for(workload: Workload, tmp_path: Path) -> None:
    """Eager attention keeps the square of the block size, which the default does not."""
    eager = replace(workload, model_args={"attn_implementation": "eager"}, block_size=64, batch_size=8)
    foretold, measured = both(eager, FULL, tmp_path)
    assert foretold.forecast_bytes == pytest.approx(measured.peak_bytes, rel=0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"training_args": {"label_smoothing_factor": 0.1}},
        {"training_args": {"use_liger_kernel": True}},
        {"training_args": {"torch_compile": True}},
        {"training_args": {"optim": "paged_adamw_8bit"}},
        {"model_args": {"disable_mmap": True}},
    ],
    ids=str,
)
def test_what_it_does_not_follow_it_does_not_foretell(workload: Workload, change: dict[str, Any]) -> None:
    """A number that leaves out half of what happens would be worse than none."""
    with pytest.raises(NoForecastError, match=r"the forecast cannot tell|takes effect only when weights are loaded"):
        forecast(TrialSpec(workload=replace(workload, **change), variant=FULL, seed=0, device="cpu"))


def test_it_needs_no_weights(workload: Workload, tmp_path: Path) -> None:
    """A folder that holds a configuration, and nothing else, is enough."""
    config = Path(workload.model) / "config.json"
    (tmp_path / "config.json").write_bytes(config.read_bytes())
    spec = TrialSpec(workload=workload, variant=FULL, seed=0, device="cpu")
    bare = replace(spec, workload=replace(workload, model=str(tmp_path)))
    assert forecast(bare) == forecast(spec)


def test_where_it_cannot_follow_there_is_no_forecast(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that looks at its values, and a training function, give a reason instead of a guess."""
    from transformers import GPT2LMHeadModel

    real = GPT2LMHeadModel.forward

    def curious(self: Any, **inputs: Any) -> Any:
        output = real(self, **inputs)
        assert float(output.loss) > 0
        return output

    spec = TrialSpec(workload=workload, variant=FULL, seed=0, device="cpu")
    with pytest.raises(NoForecastError, match="before it runs"):
        forecast(replace(spec, workload=replace(workload, training_function="mine:train")))
    monkeypatch.setattr(GPT2LMHeadModel, "forward", curious)
    with pytest.raises(NoForecastError, match="GPT2LMHeadModel cannot be followed without its weights"):
        forecast(spec)


def test_a_model_that_needs_its_weights_is_trained_without_a_forecast(
    workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be built on the meta device can still be trained; only the plan has nothing to say."""

    def curious(*_: Any, **__: Any) -> None:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", curious)
    spec = TrialSpec(workload=workload, variant=FULL, seed=0, device="cpu")
    planned = plan_trial(spec)
    assert planned.measured.memory is None
    assert planned.measured.error is not None
    assert "no forecast" in planned.measured.error.message
    assert "cannot be built without its weights" in planned.measured.error.message
    trained = run_trial(spec, TrialFolder(tmp_path, 0), lambda *_: None, foretell=True)
    assert trained.measured.outcome == "ok", trained.measured.error


def test_what_it_answers_for_transformers_is_taken_back(workload: Workload) -> None:
    """Later calls in the same process see transformers as it was."""
    before = masking_utils.find_packed_sequence_indices
    forecast(TrialSpec(workload=workload, variant=FULL, seed=0, device="cpu"))
    assert masking_utils.find_packed_sequence_indices is before


def test_wrong_targets_and_a_missing_model_are_named(workload: Workload) -> None:
    """The same mistakes are found here as in the training."""
    wrong = TrialSpec(workload=workload, variant=replace(LORA, target_modules=("q_prj",)), seed=0, device="cpu")
    with pytest.raises(ConfigurationError, match="q_prj"):
        forecast(wrong)
    with pytest.raises(ConfigurationError, match="no such folder"):
        forecast(replace(wrong, workload=replace(workload, model="/nowhere/at/all")))
