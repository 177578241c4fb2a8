"""Classification of texts as a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from pytest_ftguard.results import Answers, SequenceLosses
from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks.base import Evaluated, Examples, Task, losses_of

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from pytest_ftguard.tasks.rows import Rows

__all__ = ["Classification"]


class Classification(Task):
    """The class of each text, or pair of texts, is predicted by a head on an encoder or a decoder.

    The head is trained in every variant, and begins the same in all of them. The loss is in nats per example. A task of
    yours that makes its rows in another way derives from this class and replaces `read`.
    """

    def read(self, place: str, role: str) -> Rows:
        """Return the rows of a data set, with the columns text and label, and perhaps text_pair.

        Args:
            place: What the workload names.
            role: "training", "validation" or "reference", for messages.

        Raises:
            ConfigurationError: They cannot be read.
        """
        from pytest_ftguard.tasks.rows import read_rows

        return read_rows(place, role)

    def load_tokenizer(self, workload: Workload) -> Any:
        """Return the workload's tokenizer, which must have a vocabulary."""
        from pytest_ftguard.tasks.causal_lm.models import load_tokenizer
        from pytest_ftguard.tasks.classification.model import CLASSIFIES

        return load_tokenizer(workload, CLASSIFIES)

    def load_examples(self, workload: Workload, tokenizer: Any) -> Examples:
        """Return the rows as examples, without copies among those that are evaluated."""
        from pytest_ftguard.tasks.classification.examples import workload_examples
        from pytest_ftguard.tasks.classification.model import training_rows

        return workload_examples(workload, tokenizer, self.read, training_rows(workload, self.read))

    def load_model(self, workload: Workload) -> PreTrainedModel:
        """Return the classifier, with a new head unless its own knows the classes."""
        from pytest_ftguard.tasks.classification.model import load_classifier, training_rows

        return load_classifier(workload, training_rows(workload, self.read)[2])

    def build_without_weights(self, workload: Workload) -> PreTrainedModel:
        """Return the same model's shapes."""
        from pytest_ftguard.tasks.classification.model import shapes_of_classifier, training_rows

        return shapes_of_classifier(workload, training_rows(workload, self.read)[2])

    def nll(self, model: nn.Module, sequences: Sequence[Any], *, batch_size: int, bf16: bool) -> list[float]:
        """Return the loss of each example's class."""
        from pytest_ftguard.tasks.classification.data import judged

        pad = cast(Any, model).config.pad_token_id
        return judged(model, sequences, pad, batch_size=batch_size, bf16=bf16)[0]

    def losses(self, model: nn.Module, examples: Evaluated, *, batch_size: int, bf16: bool) -> SequenceLosses:
        """Return the losses of a model, and which classes it gives the examples."""
        from pytest_ftguard.tasks.classification.data import judged

        pad = cast(Any, model).config.pad_token_id
        nll, predicted = judged(model, examples.sequences, pad, batch_size=batch_size, bf16=bf16)
        labels = tuple(example.label for example in examples.sequences)
        return replace(losses_of(self, nll, examples), answers=Answers(labels, tuple(predicted)))

    def collate(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return a batch that is padded on the right."""
        from pytest_ftguard.tasks.classification.data import batch_of

        return batch_of(items)

    def blank_batch(self, workload: Workload) -> dict[str, Tensor]:
        """Return a batch of the largest size with any content."""
        from pytest_ftguard.tasks.classification.data import blank_batch

        return blank_batch(workload.batch_size, workload.block_size)

    def check_size(self, model: nn.Module, workload: Workload, taken: int) -> None:
        """Check that there is a position for each token of an example."""
        from pytest_ftguard.tasks.causal_lm.texts import check_context

        check_context(model, workload.model, workload.block_size, taken=taken)

    def check_examples(self, examples: Examples, tokenizer: Any, model: nn.Module) -> None:
        """Check that there is an embedding for every token."""
        from pytest_ftguard.tasks.text.tokens import check_ids

        train = cast(Any, examples.train).examples
        parts = {"training": train, **{role: text.sequences for role, text in examples.evaluated.items()}}
        check_ids({role: max(int(one.ids.max()) for one in part) for role, part in parts.items()}, tokenizer, model)
