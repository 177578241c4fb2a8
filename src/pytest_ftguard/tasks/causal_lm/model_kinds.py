"""Whether a configuration is that of a causal language model, and if not, of what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig
from transformers.models.auto import modeling_auto

from pytest_ftguard.errors import ConfigurationError

__all__ = ["check_kind"]

_GIVE: Final = "give a causal language model such as GPT-2, Llama or Qwen"
_TASKS: Final = {
    "ForSequenceClassification": "a classifier of texts",
    "ForTokenClassification": "a classifier of tokens",
    "ForMultipleChoice": "a classifier",
    "ForNextSentencePrediction": "a classifier",
    "ForQuestionAnswering": "a model that answers questions from a text",
    "ForMaskedLM": "an encoder that fills in masked tokens",
    "RewardModel": "a reward model",
}
# The first of these lists that knows a model type says what it is.
_FAMILIES: Final = (
    ("a sequence-to-sequence model", ("SEQ_TO_SEQ_CAUSAL_LM",)),
    ("a speech or audio model", ("SPEECH_SEQ_2_SEQ", "CTC", "AUDIO_CLASSIFICATION", "TEXT_TO_WAVEFORM")),
    ("a model of images and text", ("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "ZERO_SHOT_IMAGE_CLASSIFICATION")),
    ("a vision model", ("IMAGE_CLASSIFICATION", "OBJECT_DETECTION", "IMAGE_SEGMENTATION", "IMAGE", "BACKBONE")),
    ("an encoder", ("MASKED_LM", "TEXT_ENCODING", "SEQUENCE_CLASSIFICATION")),
)


def check_kind(words: str, config: PretrainedConfig, model_args: Mapping[str, Any]) -> None:
    """Check that a configuration is that of a causal language model.

    Args:
        words: Beginning of a message, which names the model.
        config: As the model's folder has it.
        model_args: The workload's options, some of which change what the model is.

    Raises:
        ConfigurationError: It is another kind of model.
    """
    kind = _other_kind(config, is_decoder=bool(model_args.get("is_decoder", getattr(config, "is_decoder", False))))
    if kind is not None:
        raise ConfigurationError(f"{words}, which is {kind} and not a causal language model: {_GIVE}")


def _other_kind(config: PretrainedConfig, *, is_decoder: bool) -> str | None:
    own = config.model_type
    name = next(iter(getattr(config, "architectures", None) or ()), None)
    called = f"({own}, {name})" if name else f"({own})"
    if getattr(config, "is_encoder_decoder", False):
        return f"a sequence-to-sequence model ({own})"
    if not (type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or "AutoModelForCausalLM" in _own_code(config)):
        return f"{_family(own) or 'a model of another kind'} {called}"
    task = next((task for ending, task in _TASKS.items() if name and name.endswith(ending)), None)
    if task is not None and not (task == _TASKS["ForMaskedLM"] and is_decoder):
        return f"{task} {called}"
    # BERT and its like have a causal class too, which sees all tokens unless it is told to be a decoder.
    has_switch = own in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and hasattr(config, "is_decoder")
    return f"an encoder {called}" if has_switch and not is_decoder else None


def _own_code(config: PretrainedConfig) -> Mapping[str, Any]:
    return getattr(config, "auto_map", None) or {}


def _family(model_type: str) -> str | None:
    for family, lists in _FAMILIES:
        for name in lists:
            if model_type in getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES", ()):
                return family
    return None
