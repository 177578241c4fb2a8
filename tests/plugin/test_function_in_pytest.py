"""A project's own training function is found by the trials' processes, and its mistakes are told in the test."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.torch

TRAINING = """
import torch

def train(model, data, spec):
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=spec.variant.learning_rate)
    for batch in data:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

def broken(model, data, spec):
    for batch in data:
        raise KeyError("no such layer")
"""
TEST = """
from pytest_ftguard import assert_loss_gap

def test_it(full_variant, lora_variant):
    verdict = assert_loss_gap(lora_variant, full_variant, at_most=3)
    assert full_variant.workload.training_function.startswith("our_training:")
    assert full_variant.seconds_per_step > 0
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_function_beside_conftest_trains(project: pytest.Pytester, workers: int) -> None:
    """What the tests can import the trials can import, without and with xdist."""
    project.makepyfile(our_training=TRAINING, test_it=TEST)
    options = ["-n", str(workers)] if workers else []
    result = project.runpytest_inprocess("--ftguard-training-function=our_training:train", *options)
    result.assert_outcomes(passed=1)


def test_what_it_raises_ends_the_trial_and_is_shown(project: pytest.Pytester) -> None:
    """The gate is INVALID, with the exception and the line of the user's that raised it."""
    project.makepyfile(our_training=TRAINING, test_it=TEST)
    result = project.runpytest_inprocess("--ftguard-training-function=our_training:broken")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*loss gap INVALID*",
            "*in phase 'train' at step 0: KeyError*",
            '*our_training.py", line 13*',
            "*KeyError: 'no such layer'",
        ]
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("our_trainings:train", "*our_trainings:train*cannot be imported*next to conftest.py*"),
        ("our_training", "*must be \"module:function\"*got 'our_training'*--ftguard-training-function*"),
    ],
)
def test_a_wrong_name_is_one_clear_message(project: pytest.Pytester, name: str, words: str) -> None:
    """Its form is checked before anything runs, the module when the trial starts."""
    project.makepyfile(our_training=TRAINING, test_it=TEST)
    result = project.runpytest_inprocess(f"--ftguard-training-function={name}")
    assert result.ret != 0
    assert "Traceback" not in result.stdout.str()
    (result.stdout if "trainings" in name else result.stderr).fnmatch_lines([words])
