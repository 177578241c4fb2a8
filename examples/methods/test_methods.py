"""Five ways of adapting the weights other than `LoRA(...)`, before the gates that LoRA would meet.

On this small model, after 60 steps, each of them pays for what it saves: see which gate refuses which method. A refusal
is an expected failure here; in a project of yours it would block a merge.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from peft import LoraConfig

from pytest_ftguard import Ftguard, LimitExceeded, Peft, TrainedVariant, assert_loss_gap, assert_memory_budget

METHODS = {
    "ia3": Peft("ia3", learning_rate=2e-2),
    "vera": Peft("vera", r=64, target_modules=["c_attn"], learning_rate=2e-2),
    "dora": Peft(LoraConfig(r=8, use_dora=True, target_modules="all-linear"), label="dora r=8", learning_rate=5e-3),
    "prompt": Peft("prompt_tuning", num_virtual_tokens=16, learning_rate=5e-1),
    "file": Peft(Path(__file__).parent / "adapter", label="rslora r=8", learning_rate=5e-3),
}


def each_method(*refused: str, reason: str) -> pytest.MarkDecorator:
    """Return the methods as parameters of a test; of some of them it is expected that the gate refuses them."""
    mark = pytest.mark.xfail(strict=True, raises=LimitExceeded, reason=reason)
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=mark if name in refused else ()) for name in METHODS]
    )


@each_method("ia3", "vera", "prompt", reason="a few thousand weights cannot hold what the text teaches")
def test_loss(ftguard: Ftguard, full_variant: TrainedVariant, name: str) -> None:
    """The loss may be at most 0.2 nats per token higher than that of full fine-tuning."""
    assert_loss_gap(ftguard.train(METHODS[name]), full_variant, at_most=0.2)


@each_method(
    "dora", reason="DoRA builds each adapted weight again in every step, which takes more than a model this small saves"
)
def test_memory(ftguard: Ftguard, full_variant: TrainedVariant, name: str) -> None:
    """The training may not take more memory than that of full fine-tuning."""
    assert_memory_budget(ftguard.train(METHODS[name]), "100%", of=full_variant)
