"""What is to be trained, as frozen plain data: the workload, the variants, and one trial of one of them."""

from __future__ import annotations

from pytest_ftguard.specs.identity import content_of, fields_of, key_of, places_of
from pytest_ftguard.specs.rates import RateSource, rate_source
from pytest_ftguard.specs.trial import TrialSpec
from pytest_ftguard.specs.values import FrozenOptions, canonical_json, readable_json, without_folders
from pytest_ftguard.specs.variants import Full, LoRA, Variant, variant_from_dict, variant_to_dict, with_learning_rate
from pytest_ftguard.specs.workload import Places, Workload

__all__ = [
    "FrozenOptions",
    "Full",
    "LoRA",
    "Places",
    "RateSource",
    "TrialSpec",
    "Variant",
    "Workload",
    "canonical_json",
    "content_of",
    "fields_of",
    "key_of",
    "places_of",
    "rate_source",
    "readable_json",
    "variant_from_dict",
    "variant_to_dict",
    "with_learning_rate",
    "without_folders",
]
