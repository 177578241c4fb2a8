"""What is to be trained, as frozen plain data: the workload, the variants, and one trial of one of them."""

from __future__ import annotations

from pytest_ftguard.specs.identity import content_of, fields_of, key_of, places_of, rows_of
from pytest_ftguard.specs.methods.base import Search, Variant
from pytest_ftguard.specs.methods.full import Full
from pytest_ftguard.specs.methods.lora import LoRA
from pytest_ftguard.specs.methods.peft import Peft
from pytest_ftguard.specs.methods.rates import RateSource, rate_source
from pytest_ftguard.specs.methods.variants import (
    find_variant_class,
    import_path,
    import_paths,
    register_variant,
    variant_from_dict,
    variant_to_dict,
    with_learning_rate,
)
from pytest_ftguard.specs.trial import TrialSpec
from pytest_ftguard.specs.values import FrozenOptions, canonical_json, readable_json, without_folders
from pytest_ftguard.specs.workload import Places, Workload

__all__ = [
    "FrozenOptions",
    "Full",
    "LoRA",
    "Peft",
    "Places",
    "RateSource",
    "Search",
    "TrialSpec",
    "Variant",
    "Workload",
    "canonical_json",
    "content_of",
    "fields_of",
    "find_variant_class",
    "import_path",
    "import_paths",
    "key_of",
    "places_of",
    "rate_source",
    "readable_json",
    "register_variant",
    "rows_of",
    "variant_from_dict",
    "variant_to_dict",
    "with_learning_rate",
    "without_folders",
]
