"""Training on conversations, prompts with completions, and texts that are rows, as a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks.base import Examples
from pytest_ftguard.tasks.causal_lm.task import LanguageModel

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from pytest_ftguard.tasks.rows import Rows

__all__ = ["Chat"]


class Chat(LanguageModel):
    """Each row is an example: a conversation, a prompt with its completion, or a text, in the formats of TRL.

    A task of yours that makes its rows in another way derives from this class and replaces `read`.
    """

    def read(self, place: str, role: str) -> Rows:
        """Return the rows of a data set.

        Args:
            place: What the workload names.
            role: "training", "validation" or "reference", for messages.

        Raises:
            ConfigurationError: They cannot be read.
        """
        from pytest_ftguard.tasks.rows import read_rows

        return read_rows(place, role)

    def load_tokenizer(self, workload: Workload) -> Any:
        """Return the workload's tokenizer, with the workload's chat template if there is one."""
        tokenizer = super().load_tokenizer(workload)
        if workload.chat_template is not None:
            tokenizer.chat_template = workload.chat_template
        return tokenizer

    def load_examples(self, workload: Workload, tokenizer: Any) -> Examples:
        """Return the rows as examples, without copies among those that are evaluated."""
        from pytest_ftguard.tasks.chat.examples import workload_examples

        return workload_examples(workload, tokenizer, self.read)

    def load_model(self, workload: Workload) -> PreTrainedModel:
        """Return the causal language model; if examples are packed, it must keep them apart."""
        from pytest_ftguard.tasks.chat.checks import check_packing

        model = super().load_model(workload)
        if workload.packing:
            check_packing(model)
        return model

    def nll(self, model: nn.Module, sequences: Sequence[Any], *, batch_size: int, bf16: bool) -> list[float]:
        """Return the loss of each example, summed over the tokens that count."""
        from pytest_ftguard.tasks.causal_lm.evaluation import sequence_nll

        ids, labels = ([getattr(one, name) for one in sequences] for name in ("ids", "labels"))
        return sequence_nll(model, ids, labels, batch_size=batch_size, bf16=bf16)

    def collate(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return a batch that is padded on the right, or one row of packed examples with their positions."""
        from pytest_ftguard.tasks.chat.data import batch_of

        return batch_of(items)

    def blank_batch(self, workload: Workload) -> dict[str, Tensor]:
        """Return a batch of the largest size with any content."""
        from pytest_ftguard.tasks.chat.data import blank_batch

        return blank_batch(workload.batch_size, workload.block_size, packing=workload.packing)

    def check_size(self, model: nn.Module, workload: Workload, taken: int) -> None:
        """Check that there is a position for each token, and that a prompt of the variant's has a place."""
        from pytest_ftguard.tasks.chat.checks import check_virtual_tokens

        super().check_size(model, workload, taken)
        check_virtual_tokens(workload, taken)

    def check_examples(self, examples: Examples, tokenizer: Any, model: nn.Module) -> None:
        """Check that there is an embedding for every token."""
        from pytest_ftguard.tasks.chat.checks import check_embeddings

        check_embeddings(examples, tokenizer, model)
