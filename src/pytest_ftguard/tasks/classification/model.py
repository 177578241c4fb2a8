"""The classifier: a base model with a head for the classes, which is new unless the checkpoint has one for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks.causal_lm.folders import Wanted
from pytest_ftguard.tasks.causal_lm.models import (
    ModelKind,
    build_without_weights,
    load_base,
    load_config,
    load_tokenizer,
)
from pytest_ftguard.tasks.classification.rows import Classes, LabelledRow, Read, classes_of, labelled_rows

__all__ = [
    "CLASSIFIES",
    "TrainingRows",
    "head_of",
    "load_classifier",
    "padding",
    "shapes_of_classifier",
    "training_rows",
]

_NAME: Final = "classifier of texts"
_PROBLEM: Final = "single_label_classification"
_GIVE: Final = "give an encoder or a decoder, such as BERT, ModernBERT or Qwen"
# A model of sentence-transformers is an encoder, whatever else is next to it.
CLASSIFIES: Final = Wanted(_GIVE, reads=frozenset({"modules.json"}))


TrainingRows = tuple[tuple[LabelledRow, ...], str, Classes]
"""The training rows, what messages call them, and their classes."""


def training_rows(workload: Workload, read: Read) -> TrainingRows:
    """Return the training rows of a workload, and the classes that they are of for its model.

    Raises:
        ConfigurationError: They cannot be read, have no classes, or there is no such model.
    """
    read_rows = read(workload.train, "training")
    rows = labelled_rows(read_rows)
    kind = ModelKind(_NAME, AutoModelForSequenceClassification, _check, wanted=CLASSIFIES)
    config: Any = load_config(workload, kind, needs_weights=False)
    has_head = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    names = config.label2id or {name: number for number, name in (config.id2label or {}).items()}
    known = {str(label): int(number) for label, number in names.items()} if has_head else {}
    return rows, read_rows.name, classes_of(rows, read_rows.name, known, config.num_labels)


def load_classifier(workload: Workload, classes: Classes) -> PreTrainedModel:
    """Return the classifier on the CPU; a new head is the same each time.

    Raises:
        ConfigurationError: It cannot be loaded.
    """
    new: set[str] = set()

    def is_new(model: PreTrainedModel, weight: str) -> bool:
        module = _part(model, weight)
        if module is not None:
            new.add(module)
        return module is not None

    model = load_base(workload, _kind(workload, classes, is_new))
    return _marked(model, new)


def shapes_of_classifier(workload: Workload, classes: Classes) -> PreTrainedModel:
    """Return the same model's shapes.

    Raises:
        ConfigurationError: There is no such model.
        NeedsWeightsError: It cannot be built without its weights.
    """
    return _marked(build_without_weights(workload, _kind(workload, classes)), set())


def padding(tokenizer: Any) -> int:
    """Return the token id that fills a batch up."""
    found = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return 0 if found is None else int(found)


def head_of(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that make up a classifier's head: all that are not of its base.

    Raises:
        ConfigurationError: It has no base of its own, so that random weights could be taken for a new head.
    """
    prefix = getattr(model, "base_model_prefix", "")
    parts = dict(model.named_children())
    if prefix not in parts:
        message = (
            f"{type(model).__name__} has no part named {prefix!r}, so its head cannot be told from its base: {_GIVE}"
        )
        raise ConfigurationError(message)
    return tuple(name for name, part in parts.items() if name != prefix and any(True for _ in part.parameters()))


def _part(model: PreTrainedModel, weight: str) -> str | None:
    """Return the module of a classifier that a weight may be new in; None if it is one of the base's own."""
    names = weight.split(".")
    if names[0] in head_of(model):
        return names[0]
    # The pooler of an encoder is of no use to the models that are trained to fill in words, so their files lack it.
    return "pooler" if names[:2] == [model.base_model_prefix, "pooler"] else None


def _marked(model: PreTrainedModel, new: set[str]) -> PreTrainedModel:
    model.trained_whole = tuple(dict.fromkeys((*head_of(model), *sorted(new))))  # type: ignore[assignment]
    return model


def _kind(workload: Workload, classes: Classes, is_new: Any = None) -> ModelKind:
    def configure(config: PretrainedConfig) -> None:
        if not classes.is_known:
            config.num_labels = classes.count
            config.id2label = dict(classes.names)
            config.label2id = {name: number for number, name in classes.names.items()}
        config.problem_type = _PROBLEM
        if config.pad_token_id is None:  # the last token of each text is found by it
            config.pad_token_id = padding(load_tokenizer(workload, CLASSIFIES))

    return ModelKind(_NAME, AutoModelForSequenceClassification, _check, configure, is_new, CLASSIFIES)


def _check(words: str, config: PretrainedConfig, model_args: Mapping[str, Any]) -> None:
    """Check that a configuration is that of a model that can classify texts.

    Raises:
        ConfigurationError: It is not.
    """
    own = getattr(config, "auto_map", None) or {}
    if getattr(config, "is_encoder_decoder", False):
        message = f"{words}, which is a sequence-to-sequence model ({config.model_type}): {_GIVE}"
        raise ConfigurationError(message)
    known = type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if not (known or AutoModelForSequenceClassification.__name__ in own):
        message = f"{words}, of which transformers makes no classifier of texts ({config.model_type}): {_GIVE}"
        raise ConfigurationError(message)
