"""What every task is: all that a training must know of what a model is trained for.

The process that runs pytest imports tasks too, so torch is imported inside of their methods only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import MINIMUM_UNITS, SequenceLosses
from pytest_ftguard.specs import Workload

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset
    from transformers import PreTrainedModel

__all__ = ["Evaluated", "Examples", "NeedsWeightsError", "Task", "checked_nll", "losses_of"]

_Number = TypeVar("_Number", int, float)


class NeedsWeightsError(Exception):
    """A model cannot be built without its weights; the message says why."""


class Evaluated(Protocol):
    """Evaluation examples.

    Attributes:
        sequences: The examples, each in the form that `Task.nll` takes.
        tokens: How many tokens of each are predicted: what its loss is a sum over.
        documents: Number of the document that each was cut from; None if all are independent.
        repeated: How many were left out because they repeat earlier ones.
        trained_on: How many of them stand in the training data as well.
        unknown: Share of the text that the tokenizer does not know.
        digest: SHA-256 of all that is measured: another one makes a comparison INVALID.

    Two more may be there: `about`, what is known of the examples (`About`), and `rows`, the row of each.
    """

    @property
    def sequences(self) -> Sequence[Any]:
        """The examples."""

    @property
    def tokens(self) -> Sequence[int]:
        """Predicted tokens of each."""

    @property
    def documents(self) -> Sequence[int] | None:
        """Number of the document of each."""

    @property
    def repeated(self) -> int:
        """Copies that were left out."""

    @property
    def trained_on(self) -> int:
        """Examples that are trained on."""

    @property
    def unknown(self) -> float:
        """Share of the text that the tokenizer does not know."""

    @property
    def digest(self) -> str:
        """SHA-256 of all that is measured."""


@dataclass(frozen=True)
class Examples:
    """What a trial is trained and evaluated on.

    Attributes:
        train: Training examples, each a mapping that `Task.collate` takes.
        validation: Validation examples, which gates read.
        reference: Examples of the general text; None if the workload has none.
        remarks: What the reader of a result should know of the data, such as how much of it was cut.
    """

    train: Dataset[dict[str, Tensor]]
    validation: Evaluated
    reference: Evaluated | None = None
    remarks: tuple[str, ...] = ()

    @property
    def evaluated(self) -> Mapping[str, Evaluated]:
        """The evaluation examples by their role."""
        named = {"validation": self.validation, "reference": self.reference}
        return {role: text for role, text in named.items() if text is not None}

    def doubts(self) -> Iterator[str]:
        """Yield why gates on losses would be INVALID, although the examples can be trained and evaluated on."""
        for role, text in self.evaluated.items():
            documents = None if text.documents is None else len(set(text.documents))
            units, name = (len(text.sequences), "sequences") if documents is None else (documents, "documents")
            if units < MINIMUM_UNITS:
                copies = f" ({text.repeated} sequences repeat earlier ones and do not count)" if text.repeated else ""
                yield (
                    f"gates on losses will be INVALID: they need {MINIMUM_UNITS} {role} {name}, and there are {units}"
                    f"{copies}"
                )


class Task(ABC):
    """What a model is trained for: how texts become examples, which model is loaded, and how its loss is measured.

    A task of your own derives from this class, or from `CausalLM` to change a part of that one. The setting
    `ftguard_task`, or `Workload(task=...)`, names it as "module:Class". It is made without arguments wherever it is
    needed, so it holds no state.

    A loss is measured in nats per token. What counts as a token is up to the task (`Evaluated.tokens`).
    """

    # The checks are empty here, and not abstract (B027): a task may have nothing to check.

    @abstractmethod
    def load_tokenizer(self, workload: Workload) -> Any:
        """Return the tokenizer; its `save_pretrained` writes it next to trained weights.

        Raises:
            ConfigurationError: There is none that can be loaded.
        """

    @abstractmethod
    def load_examples(self, workload: Workload, tokenizer: Any) -> Examples:
        """Return what a workload is trained and evaluated on.

        If `workload.purpose` is "search", the validation examples must be others than those that gates use.

        Raises:
            ConfigurationError: A text cannot be read, or cannot be trained or evaluated on.
        """

    @abstractmethod
    def load_model(self, workload: Workload) -> PreTrainedModel:
        """Return the base model on the CPU, with fp32 weights and without dropout.

        Called with a batch, it must return the loss that is trained on as `loss`. If the task puts a new head on a
        pretrained model, the attribute `trained_whole` of the model names its modules: every variant trains them whole.
        A new head must be the same each time.

        Raises:
            ConfigurationError: It cannot be loaded.
        """

    def build_without_weights(self, workload: Workload) -> PreTrainedModel:
        """Return the model of `load_model` on the meta device, for early checks and for the forecast of memory.

        Raises:
            NeedsWeightsError: It cannot be built.
            ConfigurationError: There is no such model.
        """
        message = f"{type(self).__name__} builds no model without its weights"
        raise NeedsWeightsError(message)

    @abstractmethod
    def nll(self, model: nn.Module, sequences: Sequence[Any], *, batch_size: int, bf16: bool) -> list[float]:
        """Return the summed negative log-likelihood of each evaluation example, in nats.

        Losses that are not finite are returned as they are. The model is left in the mode in which it was.

        Args:
            model: The base model or a trained one, on the device that is to be used.
            sequences: Evaluation examples.
            batch_size: Examples in a forward pass; it may not change the result beyond rounding.
            bf16: Whether to run under bf16 autocast, as in training. Frozen weights may then be in bf16 themselves.
        """

    def losses(self, model: nn.Module, examples: Evaluated, *, batch_size: int, bf16: bool) -> SequenceLosses:
        """Return the losses of a model on evaluation examples; see `nll`.

        Raises:
            ConfigurationError: What the task gave does not belong to the examples.
        """
        return losses_of(self, checked_nll(self, model, examples.sequences, batch_size=batch_size, bf16=bf16), examples)

    def rows(self, examples: Evaluated, tokenizer: Any) -> Sequence[Mapping[str, Any]]:
        """Return the row of each evaluation example, which a score of the team's own is handed.

        Here these are the `rows` of the examples, if they have as many.

        Args:
            examples: Evaluation examples.
            tokenizer: The tokenizer.

        Raises:
            ConfigurationError: There are none.
        """
        found = tuple(getattr(examples, "rows", ()))
        if len(found) != len(examples.sequences):
            message = (
                f"{type(self).__name__} gives {len(found)} rows of {len(examples.sequences)} examples, and a score "
                "(ftguard_score) is handed the row of each: replace its method rows"
            )
            raise ConfigurationError(message)
        return found

    def collate(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return a batch of training examples, as the model is called with; `input_ids` must be in it.

        Examples of one length are stacked.
        """
        from pytest_ftguard.tasks.batches import stacked

        return stacked(items)

    def blank_batch(self, workload: Workload) -> dict[str, Tensor]:
        """Return a batch of the largest size with any content, for the forecast of memory."""
        from pytest_ftguard.tasks.batches import blank

        return blank(workload.batch_size, workload.block_size)

    def check_size(self, model: nn.Module, workload: Workload, taken: int) -> None:  # noqa: B027
        """Check that the model takes examples as long as the workload's; it may be without weights.

        Args:
            model: The base model.
            workload: What is held fixed.
            taken: Positions that the variant takes for itself, such as virtual tokens.

        Raises:
            ConfigurationError: It does not.
        """

    def check_examples(self, examples: Examples, tokenizer: Any, model: nn.Module) -> None:  # noqa: B027
        """Check that the model can read the examples; it may be without weights.

        Raises:
            ConfigurationError: It cannot.
        """

    def check_model(self, model: PreTrainedModel) -> None:  # noqa: B027
        """Check that the base model does what the task trains and measures; it has its weights.

        Raises:
            ConfigurationError: It does not.
        """

    def check_trained(self, model: nn.Module, base: PreTrainedModel, label: str) -> None:  # noqa: B027
        """Check that a trained model still does so, whatever the variant's method has added.

        Args:
            model: The trained model; in bf16 this is called under autocast, as it is evaluated.
            base: The base model, perhaps the same object.
            label: What messages call the variant.

        Raises:
            ConfigurationError: It does not.
        """


def losses_of(task: Task, nll: Sequence[float], examples: Evaluated) -> SequenceLosses:
    """Return losses with all that a task says of their examples.

    Raises:
        ConfigurationError: What the task gave does not belong to the examples.
    """
    losses = _losses(type(task).__name__, nll, examples)
    problem = _problem(losses, len(examples.sequences))
    if problem is not None:
        message = f"{type(task).__name__} gave {problem}: each example needs a loss, and at least one token"
        raise ConfigurationError(message)
    return losses


def checked_nll(task: Task, model: nn.Module, sequences: Sequence[Any], *, batch_size: int, bf16: bool) -> list[float]:
    """Return what `Task.nll` gives, one number of Python's own for each example.

    Raises:
        ConfigurationError: It gave something else.
    """
    given = list(task.nll(model, sequences, batch_size=batch_size, bf16=bf16))
    name = type(task).__name__
    if len(given) != len(sequences):
        message = (
            f"{name} gave {len(given)} losses of {len(sequences)} examples: each example needs a loss, and at least "
            "one token"
        )
        raise ConfigurationError(message)
    return _read(name, "losses", float, given)


def _losses(name: str, nll: Sequence[float], examples: Evaluated) -> SequenceLosses:
    """Return losses with all that a task says of their examples.

    Raises:
        ConfigurationError: A value is of another type.
    """
    if not isinstance(examples.digest, str):
        message = f"{name} gave the digest {examples.digest!r:.80}, which is no text"
        raise ConfigurationError(message)
    repeated, trained_on = _read(name, "counts of copies", index, (examples.repeated, examples.trained_on))
    (unknown,) = _read(name, "shares of unknown text", float, (examples.unknown,))
    documents = examples.documents
    return SequenceLosses(
        nll=tuple(nll),
        tokens=tuple(_read(name, "numbers of tokens", index, examples.tokens)),
        documents=None if documents is None else tuple(_read(name, "documents", index, documents)),
        digest=examples.digest,
        repeated=repeated,
        trained_on=trained_on,
        unknown=unknown,
        about=getattr(examples, "about", None),
    )


def _read(name: str, what: str, kind: Callable[[Any], _Number], values: Iterable[Any]) -> list[_Number]:
    """Return values as Python's own numbers: those of numpy and torch cannot be stored.

    Raises:
        ConfigurationError: One is no such number.
    """
    try:
        return [kind(value) for value in values]
    except (TypeError, ValueError, RuntimeError) as error:  # torch raises a RuntimeError
        message = f"{name} gave {what} that are no {'whole ' if kind is index else ''}numbers: {error}"
        raise ConfigurationError(message) from None


def _problem(losses: SequenceLosses, count: int) -> str | None:
    """Return what is wrong with the losses of so many examples."""
    found = {"numbers of tokens": losses.tokens, "documents": losses.documents}
    for name, values in found.items():
        if values is not None and len(values) != count:
            return f"{len(values)} {name} of {count} examples"
    if not count:
        return "no examples"
    return f"an example of {min(losses.tokens)} tokens" if min(losses.tokens) < 1 else None
