"""What a field of a spec decides: a row of the table in `identity`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["PlaceKind", "Purpose", "Row"]

Purpose = Literal["training", "evaluation", "result", "trial", "base", "memory"]
"""What something is found again for.

The first four follow from one another. "training": the trained weights. "evaluation": what is measured of given
weights. "result": both, and so everything that was measured. "trial": a result as it is shown, its labels included;
of a workload alone, this is the work that variants share. "base" is for the losses of the base model, and "memory" for
the forecast of a training's memory.
"""
PlaceKind = Literal["model", "revision", "text"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a field of a spec decides. In doubt it is True: something is then made again, but nothing wrong is found.

    Attributes:
        training: Whether it may change the trained weights. A training function of the user's is handed the whole
            spec, and may let them depend on anything in it.
        evaluation: Whether it may change what is measured of given weights.
        base: Whether it may change the losses of the base model.
        memory: Whether it may change the forecast of the memory, or what else is known before a training: a plan reads
            the texts and checks them.
        label: Whether it tells trials apart although it changes no number.
        later: Whether it is left out of keys while it has its default: those that were made before it came stay valid.
        place: Which kind of place it names: a folder or a name on the hub of a "model", its "revision", or the path of
            a "text". Between runs its content decides, and the place does not. None if the value itself decides.
        resolved: Whether it may be "auto". Between runs, what that stood for decides.
        names_files: Whether values in it may be paths. Between runs, what they lead to decides.
    """

    training: bool = False
    evaluation: bool = False
    base: bool = False
    memory: bool = False
    label: bool = False
    later: bool = False
    place: PlaceKind | None = None
    resolved: bool = False
    names_files: bool = False

    def decides(self, purpose: Purpose) -> bool:
        """Return whether the field belongs to what something is found by."""
        result = self.training or self.evaluation
        purposes: Mapping[Purpose, bool] = {
            "training": self.training,
            "evaluation": self.evaluation,
            "result": result,
            "trial": result or self.label,
            "base": self.base,
            "memory": self.memory,
        }
        return purposes[purpose]
