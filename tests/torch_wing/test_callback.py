"""A Trainer run of the user's own is measured by the callback, and goes through the gates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import FourierFTConfig, IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

from pytest_ftguard import FtguardCallback, read_trainer_runs
from pytest_ftguard.comparison.pairs import compare, text_problems
from pytest_ftguard.comparison.problem import failure_of
from pytest_ftguard.errors import ConfigurationError, FtguardWarning
from pytest_ftguard.results import TRAINER_RUN_FILE, Trial
from pytest_ftguard.specs import Full, LoRA, Peft, TrialSpec, Workload
from pytest_ftguard.tasks.causal_lm.data import TokenBlocks
from pytest_ftguard.training.trial import TrialFolder, run_trial

# peft 0.21 asks transformers 5.23 for an attribute by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SIZE: dict[str, Any] = {"block_size": 32, "validation_sequences": 80}
Run = Callable[..., Path]


@pytest.fixture
def run(tiny_model: Path, texts: Path, tmp_path: Path) -> Run:
    """Trains as a user would, and returns the output folder."""

    def train(
        name: str, peft: Any = None, callback: FtguardCallback | None = None, *, save: bool = True, **arguments: Any
    ) -> Path:
        make, prepare = arguments.pop("trainer", Trainer), arguments.pop("prepare", lambda _: None)
        optimizers, extra = arguments.pop("optimizers", None), arguments.pop("extra", [])
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        prepare(model)
        if peft is not None:
            torch.manual_seed(0)
            model = get_peft_model(model, peft)
        ids = tokenizer((texts / "train.txt").read_text()[:8000], add_special_tokens=False)["input_ids"]
        size = arguments.pop("block", 32)
        blocks = torch.tensor(ids[: len(ids) // size * size]).view(-1, size)
        options = {
            "output_dir": str(tmp_path / name),
            "max_steps": 12,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2 if peft else 1e-3,
            "use_cpu": True,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": 7,
        }
        trainer = make(
            model=model,
            optimizers=optimizers(model) if optimizers else (None, None),
            args=TrainingArguments(**{**options, **arguments}),
            train_dataset=TokenBlocks(blocks),
            processing_class=tokenizer,
            callbacks=[callback or FtguardCallback(texts / "validation.txt", **SIZE), *extra],
        )
        trainer.train(resume_from_checkpoint=arguments.get("resume_from_checkpoint"))
        if save:
            trainer.save_state()
        return tmp_path / name

    return train


def lora() -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=32, target_modules="all-linear", fan_in_fan_out=True)


def test_two_runs_of_the_users_own_can_be_compared(run: Run) -> None:
    """Everything that the gates need is measured: losses, base, curve, order, memory, time, and the settings."""
    full, adapted = read_trainer_runs(run("full")), read_trainer_runs(run("lora", lora()))
    comparison = compare(adapted, full)
    assert not comparison.loss_problems
    assert not comparison.different_environment
    assert comparison.losses.gain(0.95).lower > 0.1
    assert full.variant == Full(learning_rate=1e-3, search_learning_rate="no")
    assert isinstance(adapted.variant, LoRA)
    assert (adapted.variant.r, adapted.variant.learning_rate, adapted.label) == (
        4,
        1e-2,
        "lora r=4 targets=c_attn,c_fc+1",
    )
    for side in (full, adapted):
        assert side.workload.steps == 12
        assert side.workload.seeds == (7,)
        assert side.cached
        assert [point.step for point in side.trials[0].measured.curve] == [0, 1, 3, 6, 12]
        assert side.peak_memory_bytes is not None
        assert side.seconds_per_step is not None
    assert adapted.trainable_parameters is not None
    assert full.trainable_parameters is not None
    assert adapted.trainable_parameters < full.trainable_parameters


def test_it_measures_what_the_plugins_own_trial_measures(
    run: Run, tiny_model: Path, texts: Path, tmp_path: Path
) -> None:
    """The base model's losses on the same text are the same to the last bit."""
    mine = read_trainer_runs(run("full")).trials[0]
    work = Workload(
        model=str(tiny_model),
        train=str(texts / "train.txt"),
        validation=str(texts / "validation.txt"),
        steps=1,
        precision="fp32",
        **SIZE,
    )
    spec = TrialSpec(workload=work, variant=Full(learning_rate=5e-5), seed=7, device="cpu")
    theirs = run_trial(spec, TrialFolder(tmp_path, 0), lambda *_: None).measured.base_validation
    assert mine.measured.base_validation is not None
    assert theirs is not None
    assert (mine.measured.base_validation.nll, mine.measured.base_validation.digest) == (theirs.nll, theirs.digest)


@pytest.mark.parametrize("change", [{"data_seed": 8}, {"gradient_accumulation_steps": 2}, {"weight_decay": 0.1}])
def test_other_batches_and_other_arguments_are_other_work(run: Run, change: dict[str, Any]) -> None:
    """Neither is compared: batches are told by their content, arguments by their value."""
    full, adapted = read_trainer_runs(run("full")), read_trainer_runs(run("lora", lora(), **change))
    assert any("not" in problem.what and "same" in problem.what for problem in compare(adapted, full).loss_problems)


def test_several_seeds_are_one_variant(run: Run) -> None:
    """One folder for each seed; each must differ, and nothing else may."""
    folders = [run(f"seed-{seed}", seed=seed) for seed in (0, 1)]
    assert [trial.spec.seed for trial in read_trainer_runs(*reversed(folders)).trials] == [0, 1]
    with pytest.raises(ConfigurationError, match="repeated seed"):
        read_trainer_runs(folders[0], folders[0])
    other = run("other", seed=3, learning_rate=1e-4)
    with pytest.raises(ConfigurationError, match=r"learning_rate is 0\.001 and 0\.0001"):
        read_trainer_runs(*folders, other)


def test_sequences_of_token_ids_and_a_reference_text(run: Run, texts: Path) -> None:
    """Who has no text gives the ids; both kinds of text are measured before and after."""
    ids = [[1, 2, 3 + number % 200, 4] for number in range(70)]
    callback = FtguardCallback(ids, reference=texts / "validation.txt", block_size=32, validation_sequences=66)
    (trial,) = read_trainer_runs(run("ids", callback=callback)).trials
    assert trial.measured.validation is not None
    assert (len(trial.measured.validation.nll), set(trial.measured.validation.tokens)) == (66, {3})
    assert trial.measured.reference is not None
    assert trial.measured.base_reference is not None
    assert trial.measured.reference.loss != trial.measured.base_reference.loss
    for wrong in ([], [[1]]):
        with pytest.raises(ConfigurationError, match="at least two token ids"):
            run("wrong", callback=FtguardCallback(wrong))


def test_a_run_that_diverged_says_so(run: Run) -> None:
    """Weights that are no longer finite give no losses to compare."""
    (trial,) = read_trainer_runs(
        run("wild", learning_rate=1e30, optim="sgd", max_grad_norm=0.0, logging_steps=1, logging_nan_inf_filter=False)
    ).trials
    assert trial.measured.outcome == "diverged"
    assert trial.measured.error is not None
    assert "step" in trial.measured.error.message


def test_a_log_that_is_not_this_runs_is_noticed(run: Run) -> None:
    """A run without the callback, into the same folder, leaves the losses of the run before it behind."""
    folder = run("full", logging_steps=1)
    stale = (folder / TRAINER_RUN_FILE).read_text()
    run("full", logging_steps=1, learning_rate=1e-4)
    (folder / TRAINER_RUN_FILE).write_text(stale)
    with pytest.raises(ConfigurationError, match="do not have the same log"):
        read_trainer_runs(folder)


def test_a_resumed_run_is_not_measured_and_leaves_no_old_result(run: Run) -> None:
    """A warning says why, the training goes on, and reading it says what is missing."""
    folder = run("full", save_strategy="steps", save_steps=6)
    assert (folder / TRAINER_RUN_FILE).exists()
    with pytest.warns(FtguardWarning, match="resumed at step 6"):
        run("full", save_strategy="steps", save_steps=6, resume_from_checkpoint=str(folder / "checkpoint-6"))
    with pytest.raises(ConfigurationError, match="add FtguardCallback"):
        read_trainer_runs(folder)


def test_the_state_of_the_last_checkpoint_will_do(run: Run) -> None:
    """Without trainer.save_state() the state lies in the checkpoint of the last step, if there is one."""
    assert read_trainer_runs(run("with", save=False, save_strategy="steps", save_steps=12)).ok
    with pytest.raises(ConfigurationError, match=r"trainer\.save_state\(\)"):
        read_trainer_runs(run("without", save=False))


def test_files_of_different_runs_are_noticed(run: Run) -> None:
    """A state that stands at another step than the losses belongs to another run."""
    folder = run("full")
    state = json.loads((folder / "trainer_state.json").read_text())
    (folder / "trainer_state.json").write_text(json.dumps({**state, "global_step": 11}))
    with pytest.raises(ConfigurationError, match=r"step 11\) .* \(step 12\)"):
        read_trainer_runs(folder)
    (folder / "trainer_state.json").write_text("{")
    with pytest.raises(ConfigurationError, match="is damaged"):
        read_trainer_runs(folder)
    (folder / TRAINER_RUN_FILE).write_text('{"trial": {"schema": 99}}')
    with pytest.raises(ConfigurationError, match="its schema is 99"):
        read_trainer_runs(folder)
    with pytest.raises(ConfigurationError, match="there is no folder"):
        read_trainer_runs(folder / "nowhere")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_methods_of_peft_are_measured_from_their_base_model(run: Run) -> None:
    """A prompt starts elsewhere, and without it the model is the base; IA3 starts at the base model."""
    full = read_trainer_runs(run("full"))
    ia3 = IA3Config(task_type="CAUSAL_LM", target_modules=["c_attn"], feedforward_modules=[], fan_in_fan_out=True)
    for name, config in (("ia3", ia3), ("prompt", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))):
        side = read_trainer_runs(run(name, config))
        assert isinstance(side.variant, Peft)
        assert side.variant.method == {"ia3": "ia3", "prompt": "prompt_tuning"}[name]
        (trial,) = side.trials
        assert trial.measured.base_validation == full.trials[0].measured.base_validation
        assert trial.measured.start is not None
        assert (abs(trial.measured.start.base_gap) > 1e-3) is (name == "prompt")
        assert not compare(side, full, same_learning_rate=True).loss_problems


def test_a_base_that_cannot_be_told_and_a_missing_tokenizer_are_errors_at_the_start(
    run: Run, tiny_model: Path, texts: Path, tmp_path: Path
) -> None:
    """Better before the training than after it. The method is trained as a variant, as the message advises."""
    method = FourierFTConfig(task_type="CAUSAL_LM", target_modules=["c_attn"], n_frequency=50, fan_in_fan_out=True)
    words = r"cannot determine the base model of fourierft: .* nats per token.* ftguard\.train\(Peft\(\.\.\.\)\)"
    with pytest.raises(ConfigurationError, match=words):
        run("fourierft", method)
    places: dict[str, Any] = {"train": str(texts / "train.txt"), "validation": str(texts / "validation.txt")}
    work = Workload(model=str(tiny_model), **places, **SIZE, steps=2, precision="fp32")
    spec = TrialSpec(workload=work, variant=Peft(method, learning_rate=1e-2), seed=0, device="cpu")
    assert run_trial(spec, TrialFolder(tmp_path / "trial", None), lambda *_: None).measured.outcome == "ok"
    callback = FtguardCallback(texts / "validation.txt")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=1)
    trainer = Trainer(model, arguments, train_dataset=TokenBlocks(torch.ones(8, 8).long()), callbacks=[callback])
    with pytest.raises(ConfigurationError, match="processing_class"):
        trainer.train()


def test_a_trial_that_is_read_has_no_weights_of_ours(run: Run) -> None:
    """The user has them; the reader makes no claim to."""
    trained = read_trainer_runs(run("full"))
    assert isinstance(trained.trials[0], Trial)
    assert trained.source is None


class Positional(Trainer):
    """Calls the model without names."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        logits = model(inputs["input_ids"]).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten())


class OwnLoss(Trainer):
    """Keeps the labels from the model, as a Trainer with a compute_loss_func does."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        logits = model(input_ids=inputs["input_ids"]).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten())


@pytest.mark.parametrize("trainer", [Positional, OwnLoss])
def test_batches_that_are_not_seen_are_not_taken_for_equal(run: Run, trainer: type[Trainer]) -> None:
    """What is learnt may hide in labels that the model never sees, so nothing is concluded from such a run."""
    with pytest.warns(FtguardWarning, match="does not know which batches"):
        folders = [run("full", trainer=trainer), run("lora", lora(), trainer=trainer)]
    full, adapted = map(read_trainer_runs, folders)
    assert any("not known which batches" in problem.what for problem in compare(adapted, full).loss_problems)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda model: model.to(torch.bfloat16), "precision"),
        (lambda model: setattr(model.transformer.drop, "p", 0.5), "model_args"),
        (lambda model: setattr(model.config, "attn_pdrop", 0.3), "model_args"),
    ],
)
def test_weights_of_bf16_and_dropout_are_other_work(run: Run, prepare: Any, words: str) -> None:
    """Both hold full fine-tuning back where LoRA is not, without a trace among the Trainer's arguments."""
    full = read_trainer_runs(run("full", prepare=prepare))
    adapted = read_trainer_runs(run("lora", lora()))
    assert any(problem.why.startswith(f"{words} is") for problem in compare(adapted, full).loss_problems)


def test_an_optimizer_of_the_users_own_gives_the_rate(run: Run) -> None:
    """The Trainer's argument says nothing where it is not used."""

    def sgd(model: Any) -> Any:
        return torch.optim.SGD(model.parameters(), lr=0.25), None

    trained = read_trainer_runs(run("full", optimizers=sgd, learning_rate=1e-3, lr_scheduler_type="constant"))
    assert trained.variant == Full(learning_rate=0.25, search_learning_rate="no")
    assert trained.workload.training_args["optimizer"] == "SGD"


def test_a_schedule_that_was_planned_for_more_steps_is_other_work(run: Run) -> None:
    """Its rate had not come down when the run was stopped."""

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step >= 12

    full = read_trainer_runs(run("full", max_steps=120, extra=[Stop()]))
    assert full.workload.steps == 12
    (problem, *_) = compare(read_trainer_runs(run("lora", lora())), full).loss_problems
    assert "'planned_steps': 12" in problem.why
    assert "'planned_steps': 120" in problem.why


def test_frozen_weights_are_not_full_fine_tuning(run: Run) -> None:
    """The name would promise what the run did not do."""
    with pytest.raises(ConfigurationError, match="of its 39,808 parameters in another way"):
        run("part", prepare=lambda model: model.transformer.wte.requires_grad_(False))


def test_ways_of_adapting_that_differ_in_other_options_are_two_variants(run: Run) -> None:
    """Their seeds are not put together."""
    one, two = lora(), lora()
    two.layers_to_transform = [0]
    folders = [run("one", one, seed=0), run("two", two, seed=1)]
    assert dict(read_trainer_runs(folders[1]).variant.options) == {"layers_to_transform": [0]}  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="read each variant by itself"):
        read_trainer_runs(*folders)


@pytest.mark.parametrize("patterns", [{"mlp.*": 4, ".*": 2}, {".*": 2, "mlp.*": 4}])
def test_patterns_of_a_run_are_those_of_the_variant(run: Run, patterns: dict[str, int]) -> None:
    """The same patterns in the same order are one way of adapting, whoever trained it."""
    config = lora()
    config.rank_pattern = patterns
    variant = read_trainer_runs(run("one", config)).variant
    assert isinstance(variant, LoRA)
    assert variant.options == LoRA(options={"rank_pattern": patterns}).options
    assert list(variant.peft_options["rank_pattern"]) == list(patterns)


def test_adapters_that_take_from_the_weights_start_from_the_base_model(run: Run) -> None:
    """PiSSA moves a part of the weights into the adapters; together they are the base model."""
    pissa = lora()
    pissa.init_lora_weights = "pissa"
    full, adapted = read_trainer_runs(run("full")), read_trainer_runs(run("lora", pissa))
    assert not compare(adapted, full).loss_problems


def test_the_documents_of_token_ids_are_kept(run: Run) -> None:
    """Sequences of one document are one unit of evidence."""
    ids = [[1, 2, 3 + number % 200, 4] for number in range(70)]
    callback = FtguardCallback(ids, documents=[number // 2 for number in range(70)], final=True)
    trained = read_trainer_runs(run("ids", callback=callback))
    assert trained.workload.final
    assert trained.trials[0].measured.validation is not None
    assert trained.trials[0].measured.validation.documents == tuple(number // 2 for number in range(70))
    with pytest.raises(ConfigurationError, match="are 70, and their documents 1"):
        run("wrong", callback=FtguardCallback(ids, documents=[0]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_gpu": 2}, "several devices"),
        ({"world_size": 2}, "several devices"),
        ({"load_best_model_at_end": True}, "best checkpoint"),
    ],
)
def test_what_is_not_measured_is_said(tmp_path: Path, texts: Path, change: dict[str, Any], words: str) -> None:
    """The training goes on without being measured, and nothing is written that could be taken for a result."""
    arguments = {"output_dir": str(tmp_path), "n_gpu": 0, "world_size": 1, "load_best_model_at_end": False, **change}
    callback = FtguardCallback(texts / "validation.txt")
    state = SimpleNamespace(global_step=0, max_steps=1)
    with pytest.warns(FtguardWarning, match=words):
        callback.on_train_begin(SimpleNamespace(**arguments), state, None)  # type: ignore[arg-type]
    for hook in (callback.on_step_begin, callback.on_step_end, callback.on_log, callback.on_train_end):
        hook(SimpleNamespace(**arguments), state, None)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["text", "token ids"])
def test_a_validation_text_that_was_trained_on_is_invalid(run: Run, texts: Path, tmp_path: Path, form: str) -> None:
    """The callback sees the batches go by: rows that are whole sequences, or hold passages of the text."""
    content = (texts / "train.txt").read_text()[:8000]
    if form == "text":
        (tmp_path / "trained.txt").write_text(content)
        callback = FtguardCallback(tmp_path / "trained.txt", block_size=64, validation_sequences=80)
    else:
        ids = [byte + 3 for byte in content.encode()]
        callback = FtguardCallback([ids[start : start + 32] for start in range(0, len(ids) - 32, 32)])
    trained = read_trainer_runs(run("full", callback=callback, block=32 if form == "token ids" else 64, max_steps=40))
    validation = trained.trials[0].measured.validation
    assert validation is not None
    assert validation.trained_on > 0.5 * len(validation.nll)
    (problem, *_) = text_problems([trained], "validation")
    assert "are also in the training data" in problem.what


def test_what_is_beyond_the_model_is_an_error_at_the_start(run: Run) -> None:
    """Not an index that is out of range somewhere in torch."""
    with pytest.raises(ConfigurationError, match="of the validation text, but the model has 60 embeddings"):
        run("small", prepare=lambda model: model.resize_token_embeddings(60))
    with pytest.raises(ConfigurationError, match=r"token id 384 .* of the validation text"):
        run("ids", callback=FtguardCallback([[1, 384]]))
    with pytest.raises(ConfigurationError, match=r"block_size is 65, but .* has 64 positions"):
        run("long", callback=FtguardCallback([list(range(65))]))


class Freezing(TrainerCallback):
    """Takes one adapter out of the training."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        for name, parameter in model.named_parameters():
            if "h.0.attn.c_attn.lora_" in name:
                parameter.requires_grad_(False)


def test_an_adapter_that_a_callback_froze_is_missed(run: Run) -> None:
    """Its losses are finite and look plausible, and decide nothing."""
    trial = read_trainer_runs(run("lora", lora(), extra=[Freezing()])).trials[0]
    problem = failure_of(trial)
    assert problem is not None
    assert "1 of 8 adapters never received a gradient" in problem.what
    assert "transformer.h.0.attn.c_attn" in problem.why
