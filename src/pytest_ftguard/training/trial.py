"""One trial, from a spec to a result: one path for every variant."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, set_seed

from pytest_ftguard.results import (
    BaseLosses,
    Environment,
    Measured,
    Provenance,
    Timing,
    Trial,
    TrialError,
    to_plain,
)
from pytest_ftguard.specs import TrialSpec
from pytest_ftguard.tasks import Examples, NeedsWeightsError, find_task, path_of_own
from pytest_ftguard.tasks.out_of_memory import is_out_of_memory, what_was_lacking
from pytest_ftguard.training import adapters, kept, machine
from pytest_ftguard.training.arguments import training_arguments
from pytest_ftguard.training.changed import Watch, checksums_of
from pytest_ftguard.training.checkpoints import (
    CheckpointedTrainer,
    CheckpointSaver,
    can_make,
    newest_complete,
)
from pytest_ftguard.training.forecast import will_not_fit
from pytest_ftguard.training.frozen import hold_frozen
from pytest_ftguard.training.function import Batches, load_function, source_digest, train_with
from pytest_ftguard.training.memory import PhasePeaks
from pytest_ftguard.training.order import Batch, OrderedCollator
from pytest_ftguard.training.own_trainer import load_trainer, train_with_class
from pytest_ftguard.training.parameters import count_parameters
from pytest_ftguard.training.recorder import Evaluator, Recorder, curve_part
from pytest_ftguard.training.scoring import Scorer, check_asked
from pytest_ftguard.training.start import BaseAsHeld, measure_start
from pytest_ftguard.training.step_hooks import DivergedError, StepHooks

__all__ = ["Report", "TrialFolder", "run_trial"]

Report = Callable[[str, int, float | None], None]
"""Called with the phase ("load", "evaluate", "train", "save"), the steps done, and the training loss if known."""


@dataclass(frozen=True)
class TrialFolder:
    """Where a trial may write.

    Attributes:
        path: A folder of its own.
        keep_at_most_bytes: Largest size of trained weights that are kept; None keeps them whatever their size.
        checkpoints: Folder that outlives the process, from which a training that was killed goes on; None keeps no
            checkpoints.
        checkpoint_seconds: Time between two of them.
    """

    path: Path
    keep_at_most_bytes: int | None
    checkpoints: Path | None = None
    checkpoint_seconds: float = 60.0


_Train = Callable[[nn.Module, Dataset[Batch], OrderedCollator, Recorder], None]


def run_trial(
    spec: TrialSpec,
    folder: TrialFolder,
    report: Report,
    base: BaseLosses | None = None,
    wait_for_quiet: Callable[[], None] = lambda: None,
    *,
    run: str = "",
    foretell: bool = False,
    flop_per_second: float | None = None,
) -> Trial:
    """Train one variant with one seed and measure everything about it.

    Running out of memory and diverging are outcomes, not exceptions.

    Args:
        spec: What is trained.
        folder: Where the Trainer may write, and where the trained weights are kept.
        report: Called as the trial goes on.
        base: The base model's losses on this workload, if an earlier trial measured them.
        wait_for_quiet: Called before the steps that are timed; returns when nothing of ours disturbs them.
        run: Identity of the run that the trial is part of.
        foretell: Whether a training that will not fit into the device's memory is to end before it begins.
        flop_per_second: What this machine reaches in a large matrix product; None measures it after the training.

    Raises:
        ConfigurationError: The spec cannot be carried out; the message says what to change.
        DeviceUnavailableError: The device is not present.
    """
    device = machine.resolve_device(spec.device)
    environment = machine.describe(device, precision=machine.resolve_precision(spec.workload.precision, device))
    try:
        trial = _Trial(spec, folder, report, environment, device)
        report("load", 0, None)
        hopeless = will_not_fit(spec, environment, device) if foretell else None
        result = hopeless or trial.run(base, wait_for_quiet)
        timed = _timed(result, run, flop_per_second, device)
        return result.remeasured(time=timed, notes=tuple(trial.notes))
    except DivergedError as error:
        return Trial(spec, Measured(outcome="diverged", environment=environment, error=TrialError(str(error))))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        found = TrialError(what_was_lacking(error))
        return Trial(spec, Measured(outcome="out_of_memory", environment=environment, error=found))


def _timed(result: Trial, run: str, flop_per_second: float | None, device: torch.device) -> Timing | None:
    """Return the times of a result with the run that they are of and what the machine can do."""
    if result.measured.time is None or result.measured.environment is None:
        return None
    reached = flop_per_second or machine.flop_per_second(device, bf16=result.measured.environment.precision == "bf16")
    return replace(result.measured.time, run=run, machine_flop_per_second=reached)


class _Loaded(NamedTuple):
    """What a training begins with."""

    model: PreTrainedModel
    tokenizer: Any
    examples: Examples
    phases: PhasePeaks


class _Trial:
    """The stages of a trial, which share its spec and its device."""

    def __init__(
        self, spec: TrialSpec, folder: TrialFolder, report: Report, environment: Environment, device: torch.device
    ) -> None:
        self.spec = spec
        self.workload = spec.workload
        self.adapter = adapters.find_adapter(spec.variant)
        self.folder = folder
        self.report = report
        self.environment = environment
        self.device = device
        self.bf16 = environment.precision == "bf16"
        self.task = find_task(spec.workload.task)
        self.evaluator = Evaluator(self.task, spec.workload.batch_size, self.bf16)
        self.scorer = Scorer.of(spec.workload, self.task, bf16=self.bf16)
        self.earlier: tuple[Path, dict[str, Any]] | None = None
        self.notes: list[str] = []

    def run(self, base: BaseLosses | None, wait_for_quiet: Callable[[], None]) -> Trial:
        self.report("load", 0, None)
        train = self._trainer() if self.workload.training_function is None else self._function()
        loaded = self._load()
        base = base or self._base(loaded)
        held = self._held(loaded)
        # Weights of the base may have to be kept with those of an adapter.
        before = kept.digests_of(loaded.model) if self.adapter.changes_base else None
        # Adapters draw random numbers when they are made, so the seed is set before them, and again for the training.
        set_seed(self.spec.seed)
        model = adapters.apply_variant(loaded.model, self.spec.variant)
        if self.bf16 and self.workload.own_training is None:
            hold_frozen(model, before)
        set_seed(self.spec.seed)
        loaded.phases.end("evaluate")
        measured = self.earlier[1] if self.earlier else None
        steps, earlier = self.workload.steps, measured["steps"] if measured else None
        recorder = Recorder(model, loaded.examples.validation, self.evaluator, steps, self.device, earlier=earlier)
        collator = OrderedCollator(self.task.collate, measured)
        start = measure_start(self.spec, model, recorder, base.validation, held)
        watch = self._watch(model)
        wait_for_quiet()
        self.report("train", self._first_step, None)
        with closing(recorder):
            train(model, loaded.examples.train, collator, recorder)
        loaded.phases.end("train")
        final = self._final(model, loaded)
        after = checksums_of(model) if watch is not None else {}
        model_dir, not_kept = self._keep(model, loaded.tokenizer, before, after)
        own = self.workload.own_training
        probe = self._probe(model, loaded.examples) if model_dir else None
        # Last, because nobody knows what code of the user's does to the model.
        validation = self.scorer.trained(final.validation, model, loaded.tokenizer, loaded.examples.validation)
        return Trial(
            self.spec,
            Measured(
                outcome="ok",
                parameters=count_parameters(model),
                updates=watch.result(after) if watch is not None else None,
                validation=validation,
                base_validation=base.validation,
                reference=final.reference,
                base_reference=base.reference,
                start=start,
                curve=recorder.curve(final.validation),
                probe=probe,
                data_order=collator.order,
                supervised_tokens=collator.seen(None if own else recorder.batches)["supervised"],
                code=source_digest(own) if own else None,
                memory=loaded.phases.with_training(recorder.peak),
                time=recorder.timing,
                environment=self.environment,
                remarks=loaded.examples.remarks,
            ),
            Provenance(model_dir=model_dir, not_kept=not_kept),
        )

    def _watch(self, model: nn.Module) -> Watch | None:
        """Remember what the training begins with; one that is only timed has no losses that anybody judges."""
        if self.workload.purpose == "timing":
            return None
        return Watch(model, hooks=not self.workload.training_args.get("torch_compile"))

    def _load(self) -> _Loaded:
        """Return the base model on the device and the texts, all of it checked."""
        shapes = self._check_shapes()
        tokenizer = self.task.load_tokenizer(self.workload)
        examples = self.task.load_examples(self.workload, tokenizer)
        check_asked(self.workload, self.task, examples.validation)
        if shapes is not None:
            self.task.check_examples(examples, tokenizer, shapes)
        phases = PhasePeaks(self.device)
        model = self.task.load_model(self.workload)
        adapters.check_variant(model, self.spec.variant)
        if shapes is None:
            self._check_size(model)
            self.task.check_examples(examples, tokenizer, model)
        cast(nn.Module, model).to(self.device)
        phases.end("load")
        return _Loaded(model, tokenizer, examples, phases)

    def _base(self, loaded: _Loaded) -> BaseLosses:
        """Return the losses of the base model, which must do what the task trains."""
        self.report("evaluate", 0, None)
        self.task.check_model(loaded.model)
        losses = self.evaluator.measure(loaded.model, loaded.examples)
        return self.scorer.base(losses, loaded.model, loaded.tokenizer, loaded.examples.validation)

    def _held(self, loaded: _Loaded) -> BaseAsHeld:
        """Hold the base as the variant does, and return its losses then."""
        validation, evaluator = loaded.examples.validation, self.evaluator
        changes = adapters.prepare_base(loaded.model, self.spec.variant)
        if not changes and self.spec.variant.starts_at_base:
            return BaseAsHeld()
        part = curve_part(validation, evaluator.batch_size, self.workload.steps)
        curve = evaluator.nll(loaded.model, [validation.sequences[place] for place in part])
        return BaseAsHeld(evaluator.losses(loaded.model, validation) if changes else None, tuple(curve))

    def _final(self, model: nn.Module, loaded: _Loaded) -> BaseLosses:
        """Return the losses of the trained model.

        Raises:
            DivergedError: They are not finite.
        """
        self.report("evaluate", self.workload.steps, None)
        final = self.evaluator.measure(model, loaded.examples)
        loaded.phases.end("evaluate")
        if not all(map(math.isfinite, final.validation.nll)):
            message = f"the validation loss is not finite after step {self.workload.steps}; {self.lower_rate}"
            raise DivergedError(message)
        if not self.spec.variant.starts_at_base:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
                self.task.check_trained(model, loaded.model, self.spec.variant.label)
        return final

    def _check_shapes(self) -> nn.Module | None:
        """Check what shapes alone can tell, for weights may take minutes to come; return the model without them."""
        try:
            model = self.task.build_without_weights(self.workload)
            adapters.check_variant(model, self.spec.variant)
            self._check_size(model)
            # Not every way of starting an adapter works without numbers: it is tried again when they are there.
            with torch.device("meta"), suppress(NotImplementedError):
                adapters.apply_variant(self.task.build_without_weights(self.workload), self.spec.variant)
        except NeedsWeightsError:
            return None  # the same is checked when they are there
        return model

    def _check_size(self, model: nn.Module) -> None:
        self.task.check_size(model, self.workload, self.adapter.positions(self.spec.variant))

    def _trainer(self) -> _Train:
        own = self.workload.trainer
        if own is not None:
            load_trainer(own)  # a wrong name is told before a model is loaded
        # What else a class of the user's holds is in no checkpoint.
        checkpoints = self.folder.checkpoints if own is None else None
        place = checkpoints or self.folder.path / "trainer"
        arguments = training_arguments(self.spec, place, self.device, bf16=self.bf16)
        self.earlier = newest_complete(checkpoints, self._note) if checkpoints else None
        if self.earlier and self.earlier[1].get("environment") != to_plain(self.environment):
            self._note(f"its {self.earlier[0].name} is another machine's, so the training started again")
            self.earlier = None
        if self.earlier:
            self._note(f"a training that was killed went on from {self.earlier[0].name}")

        def train(model: nn.Module, examples: Dataset[Batch], collator: OrderedCollator, record: Recorder) -> None:
            def measured() -> dict[str, Any]:
                seen = {**collator.seen(record.batches), "environment": to_plain(self.environment)}
                return {"steps": record.measured(), **seen}

            hooks: list[TrainerCallback] = [StepHooks(record, self.report, self.lower_rate)]
            if checkpoints is not None and not can_make(checkpoints, self._note):
                arguments.output_dir = str(self.folder.path / "trainer")
            elif checkpoints is not None:
                trainable = count_parameters(model).trainable
                hooks.append(CheckpointSaver(self.folder.checkpoint_seconds, trainable, measured, self._note))
            parts: dict[str, Any] = {"args": arguments, "train_dataset": examples, "callbacks": hooks}
            if own is not None:
                train_with_class(self.spec, model, record, collator, **parts)
                return
            trainer = CheckpointedTrainer(model=model, data_collator=collator, **parts)
            trainer.remove_callback(PrinterCallback)
            trainer.train(resume_from_checkpoint=str(self.earlier[0]) if self.earlier else None)

        return train

    @property
    def _first_step(self) -> int:
        return int(self.earlier[0].name.rpartition("-")[2]) if self.earlier else 0

    def _note(self, text: str) -> None:
        print(f"pytest-ftguard: {text}")  # for the log of a trial that does not end ok
        self.notes.append(text)

    def _function(self) -> _Train:
        function = load_function(str(self.workload.training_function))

        def report(step: int) -> None:
            self.report("train", step, None)

        def train(model: nn.Module, examples: Dataset[Batch], collator: OrderedCollator, record: Recorder) -> None:
            batches = Batches(self.spec, examples, collator, record, report)
            train_with(function, model, batches, self.spec, bf16=self.bf16)

        return train

    def _probe(self, model: nn.Module, examples: Examples) -> float | None:
        """Return what loaded weights must come to again; None if nobody evaluates those of code of the user's."""
        is_own = self.workload.own_training is not None or path_of_own(self.workload.task) is not None
        return None if is_own else self.evaluator.probe(model, examples.train)

    def _keep(
        self, model: nn.Module, tokenizer: Any, before: kept.Digests | None, after: Mapping[str, int]
    ) -> kept.Kept:
        if self.workload.purpose == "timing":
            return kept.Kept(None, "it was trained only to time its steps")
        changes = kept.base_changes(model, before, after, self.adapter.saved(model)) if before is not None else {}
        problem = kept.no_room(self.adapter, model, changes, self.folder.path, self.folder.keep_at_most_bytes)
        if problem:
            return kept.Kept(None, problem)
        self.report("save", self.workload.steps, None)
        return kept.keep(self.adapter, model, tokenizer, changes, self.folder.path / "model")

    @property
    def lower_rate(self) -> str:
        """What to do about a training that diverged."""
        variant = self.spec.variant
        own = self.workload.own_training
        also = f", and look for what {own} may divide by or overflow" if own else ""
        return f"try a lower learning rate than {variant.learning_rate:g} for {variant.label}{also}"
