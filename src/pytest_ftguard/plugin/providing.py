"""What the fixtures give."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.plugin.run import RUN
from pytest_ftguard.settings.markers import limits_of, memory_budget
from pytest_ftguard.settings.reading import Settings

if TYPE_CHECKING:
    from pytest_ftguard.plugin.session import Session
    from pytest_ftguard.results import TrainedVariant
    from pytest_ftguard.specs import Full, Variant, Workload

__all__ = ["Ftguard", "ftguard_of", "full_of", "lora_of", "session_variant", "workload_of"]

Spec = TypeVar("Spec")


class Ftguard:
    """What the fixture `ftguard` gives to a test.

    Attributes:
        settings: What command line, environment and ini file set.
    """

    def __init__(self, request: pytest.FixtureRequest, ours: Session) -> None:
        self._request = request
        self._session = ours
        self.settings: Settings = ours.settings

    @property
    def limits(self) -> Settings:
        """What the test's markers set, those included that were added while it runs."""
        return limits_of(self._request.node)

    def train(self, variant: Variant, workload: Workload | None = None) -> TrainedVariant:
        """Return a variant trained with every seed of the workload; in one run nothing is trained twice.

        Args:
            variant: `Full`, `LoRA`, `Peft`, or a variant of your own; LoRA's learning rate is by default ten times that
                of `ftguard_full`.
            workload: What is held fixed; the fixture `ftguard_workload` by default.
        """
        return self._session.train(
            lambda: variant,  # a class, with its brackets forgotten, is no variant
            lambda: workload or _spec(self._request, "ftguard_workload"),
            lambda: _spec(self._request, "ftguard_full"),
            [memory_budget(self._request.node)],
        )


def ftguard_of(request: pytest.FixtureRequest) -> Ftguard:
    """Return what trains further variants inside a test."""
    return Ftguard(request, request.config.stash[RUN].use())


def workload_of(config: pytest.Config) -> Workload:
    """Return the workload that the settings describe."""
    return _from_settings(config, "ftguard_workload", Settings.workload)


def full_of(config: pytest.Config) -> Full:
    """Return full fine-tuning as the settings describe it."""
    return _from_settings(config, "ftguard_full", Settings.full)


def lora_of(config: pytest.Config) -> Variant:
    """Return the candidate that the settings describe."""
    return _from_settings(config, "ftguard_lora", Settings.lora)


def _from_settings(config: pytest.Config, name: str, make: Callable[[Settings], Spec]) -> Spec:
    ours = config.stash[RUN].use()
    ours.outbox.made_of_settings.add(name)
    try:
        made = make(ours.settings)
    except ConfigurationError as error:
        failure = pytest.fail.Exception(f"ftguard: {error}", pytrace=False)
    else:
        ours.specs_of_settings.append(made)
        return made
    raise failure


def _spec(request: pytest.FixtureRequest, name: str) -> Any:
    """Return the value of a fixture, and note whether it is overridden without a use for the settings."""
    value = request.getfixturevalue(name)
    ours = request.config.stash[RUN].use()
    if name not in ours.outbox.made_of_settings:
        ours.outbox.overridden.add(name)
    return value


def session_variant(request: pytest.FixtureRequest, fixture: str) -> TrainedVariant:
    """Return the variant of the session that the fixture of a spec describes, trained.

    Args:
        request: The request of the fixture that gives the variant.
        fixture: The name of the spec's fixture.
    """
    run, name = request.config.stash[RUN], request.fixturename or ""
    ours = run.use()
    if run.test is not None:
        run.test.opened()  # the variant is noted for the specs of this test, also if nothing has used the run before
    ours.session_variants_to_come.discard(name)
    ours.overrides.note_made(name)
    why_not = ours.overrides.why_not_train(name)
    # The specs are asked for by name so that a disabled run does not even prepare their data.
    trained = ours.train(
        lambda: _spec(request, fixture),
        lambda: _spec(request, "ftguard_workload"),
        lambda: _spec(request, "ftguard_full"),
        ours.fixture_budgets.get(name, []),
        why_not,
    )
    ours.overrides.note_trained(name, trained, spared=why_not is not None)
    return trained
