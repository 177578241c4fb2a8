"""Causal language modelling as a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks.base import Evaluated, Examples, Task

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from pytest_ftguard.tasks.text.files import Text

__all__ = ["CausalLM", "LanguageModel"]


class LanguageModel(Task):
    """What the tasks have in common that train a model to predict each token from those before it."""

    def load_tokenizer(self, workload: Workload) -> Any:
        """Return the workload's tokenizer, which must have a vocabulary."""
        from pytest_ftguard.tasks.causal_lm.models import load_tokenizer

        return load_tokenizer(workload)

    def load_model(self, workload: Workload) -> PreTrainedModel:
        """Return the whole causal language model."""
        from pytest_ftguard.tasks.causal_lm.models import load_base

        return load_base(workload)

    def build_without_weights(self, workload: Workload) -> PreTrainedModel:
        """Return the same model's shapes."""
        from pytest_ftguard.tasks.causal_lm.models import build_without_weights

        return build_without_weights(workload)

    def check_size(self, model: nn.Module, workload: Workload, taken: int) -> None:
        """Check that there is a position for each token of a block."""
        from pytest_ftguard.tasks.causal_lm.texts import check_context

        check_context(model, workload.model, workload.block_size, taken=taken)

    def check_model(self, model: PreTrainedModel) -> None:
        """Check that it predicts each token from those before it, and is trained to."""
        from pytest_ftguard.tasks.causal_lm.behaviour import check_causality, check_loss

        check_causality(model)
        check_loss(model)

    def check_trained(self, model: nn.Module, base: PreTrainedModel, label: str) -> None:
        """Check that no method lets it see the token that it should predict."""
        from pytest_ftguard.tasks.causal_lm.behaviour import check_still_causal

        check_still_causal(model, base.config.get_text_config().vocab_size, label)


class CausalLM(LanguageModel):
    """Each token of a text is predicted from those before it.

    A task of yours that reads texts from another kind of file derives from this class and replaces `read`.
    """

    def read(self, path: str, role: str) -> Text:
        """Return the documents of a file, or the column text of rows.

        Args:
            path: A file, or what else holds rows: a folder, a data set on the hub, or a function.
            role: "training", "validation" or "reference", for messages.

        Raises:
            ConfigurationError: It cannot be read, or holds no text.
        """
        from pytest_ftguard.tasks.text.columns import is_rows, text_of_rows
        from pytest_ftguard.tasks.text.files import read_text

        return text_of_rows(path, role) if is_rows(path) else read_text(path, role)

    def load_examples(self, workload: Workload, tokenizer: Any) -> Examples:
        """Return blocks of the training text, and sequences of the others, without copies."""
        from pytest_ftguard.tasks.causal_lm.texts import workload_texts

        return workload_texts(workload, tokenizer, self.read)

    def nll(self, model: nn.Module, sequences: Sequence[Any], *, batch_size: int, bf16: bool) -> list[float]:
        """Return the loss of each sequence: its first token is given, the others are predicted."""
        from pytest_ftguard.tasks.causal_lm.evaluation import sequence_nll

        return sequence_nll(model, sequences, batch_size=batch_size, bf16=bf16)

    def rows(self, examples: Evaluated, tokenizer: Any) -> Sequence[Mapping[str, Any]]:
        """Return the text of each sequence, as `text`."""
        return [{"text": tokenizer.decode(ids, skip_special_tokens=True)} for ids in examples.sequences]

    def check_examples(self, examples: Examples, tokenizer: Any, model: nn.Module) -> None:
        """Check that there is an embedding for every token."""
        from pytest_ftguard.tasks.causal_lm.texts import check_embeddings

        check_embeddings(examples, tokenizer, model)
