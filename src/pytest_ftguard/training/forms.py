"""A trained model in the forms in which people ship it: saved, merged, exported, and evaluated as loaded again.

Everything is done as a user would do it: `save_pretrained`, `merge_and_unload`, `from_pretrained`. Nothing that only we
keep next to an adapter, such as what its method has changed in the base, is put back.
"""

from __future__ import annotations

import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_ftguard.errors import ConfigurationError, FtguardError
from pytest_ftguard.results.forms import FormLosses, Shipping
from pytest_ftguard.specs import TrialSpec
from pytest_ftguard.specs.importing import imported
from pytest_ftguard.tasks import find_task
from pytest_ftguard.tasks.out_of_memory import is_out_of_memory
from pytest_ftguard.training import kept, machine
from pytest_ftguard.training.adapters import prepare_base
from pytest_ftguard.training.adapters.quantization import is_quantized, told_to_peft
from pytest_ftguard.training.arguments import training_arguments
from pytest_ftguard.training.recorder import Evaluator

__all__ = ["measure_forms"]

_DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_MOST_NAMED: Final = 20
_LONGEST_CAUSE: Final = 300


class _FormError(Exception):
    """A form cannot be made; the message says why."""


def measure_forms(spec: TrialSpec, weights: Path, folder: Path, shipping: Shipping) -> tuple[FormLosses, ...]:
    """Return the losses of a trained model in each form, on the validation examples of its workload.

    The first forms have fp32 weights and are evaluated in the precision of the training. What is saved in another type
    is loaded in that type and computes in it, without autocast, as a server would; so does what the user exports.

    Args:
        spec: What was trained.
        weights: Folder of its weights, as the training kept them.
        folder: Where the forms are written; nothing is left there.
        shipping: How the model is shipped.

    Raises:
        ConfigurationError: The texts cannot be evaluated on, or the user's function cannot be imported.
        DeviceUnavailableError: The device is not present.
    """
    device = machine.resolve_device(spec.device)
    bf16 = machine.resolve_precision(spec.workload.precision, device) == "bf16"
    # Some of them set how the whole process computes.
    training_arguments(spec, folder / "trainer", device, bf16=bf16)
    deploy = None if shipping.deploy is None else _imported(shipping.deploy)
    with tempfile.TemporaryDirectory(prefix="forms-", dir=folder) as scratch:
        return tuple(_Forms(spec, weights, Path(scratch), device, bf16=bf16).measured(shipping, deploy))


def _imported(path: str) -> Callable[[Path], Any]:
    try:
        found: Any = imported(path)
    except Exception as error:  # any code may be in a module of the user's
        message = (
            f"deploy is {path!r}, which cannot be imported ({type(error).__name__}: {error}): it must be importable in "
            "the tests, so install it, put it next to conftest.py, or add its folder to pytest's pythonpath"
        )
        raise ConfigurationError(message) from error
    if not callable(found):
        message = f"deploy is {path!r}, which is no function but {found!r:.80}: check the spelling"
        raise ConfigurationError(message)
    return cast(Callable[[Path], Any], found)


class _Forms:
    """The forms of one trained model, made and evaluated one after the other."""

    def __init__(self, spec: TrialSpec, weights: Path, scratch: Path, device: torch.device, *, bf16: bool) -> None:
        self._spec = spec
        self._weights = weights
        self._scratch = scratch
        self._device = device
        self._task = find_task(spec.workload.task)
        self._evaluator = Evaluator(self._task, spec.workload.batch_size, bf16)
        self._tokenizer = self._task.load_tokenizer(spec.workload)
        self._validation = self._task.load_examples(spec.workload, self._tokenizer).validation
        self._unwrapped: nn.Module | None = None

    def measured(self, shipping: Shipping, deploy: Callable[[Path], Any] | None) -> Iterator[FormLosses]:
        """Yield the losses in each form."""
        trained: Any = None

        def load() -> tuple[nn.Module, Iterable[str]]:
            nonlocal trained
            trained, _ = kept.load_trained(self._spec, str(self._weights))
            return self._reloaded(trained)

        yield self._of("saved and reloaded", load)
        if trained is None:
            return  # its weights cannot even be loaded, which is said of the first form
        if isinstance(trained, PeftModel):
            yield self._of("merged, saved in fp32 and reloaded", lambda: self._merged(trained))
        if deploy is not None:
            form = f"deployed by {shipping.deploy}"
            yield self._of(form, lambda: self._deployed(trained, deploy), autocast=False)
        elif shipping.dtype != "fp32":
            done = "merged, saved" if isinstance(trained, PeftModel) else "saved"
            dtype = _DTYPES[shipping.dtype]
            form = f"{done} in {shipping.dtype} and reloaded"
            yield self._of(form, lambda: self._saved(self._whole(trained), dtype), autocast=False)

    def _of(
        self, form: str, make: Callable[[], tuple[nn.Module, Iterable[str]]], *, autocast: bool = True
    ) -> FormLosses:
        """Return the losses in a form; whatever goes wrong with it is a finding about it."""
        evaluator = self._evaluator if autocast else replace(self._evaluator, bf16=False)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what comes of a merge is measured
                model, changed = make()
            losses = evaluator.losses(model, self._validation)
        except (ConfigurationError, MemoryError):
            raise
        except Exception as error:  # any code may be in a model, and saving and loading fail in many ways
            if is_out_of_memory(error):
                raise
            if not isinstance(error, _FormError):
                traceback.print_exc()
            return FormLosses(form=form, cause=_cause(error))
        return FormLosses(form=form, nll=losses.nll, digest=losses.digest, changed=tuple(changed)[:_MOST_NAMED])

    def _reloaded(self, trained: nn.Module) -> tuple[nn.Module, Iterable[str]]:
        if not isinstance(trained, PeftModel):
            return self._saved(trained, torch.float32)
        base = self._task.load_model(self._spec.workload)
        prepare_base(base, self._spec.variant)
        reloaded = self._adapted(base, trained)
        return reloaded.to(self._device), _differing(trained.state_dict(), reloaded.state_dict())

    def _adapted(self, base: PreTrainedModel, trained: PeftModel) -> nn.Module:
        """Return a base with a trained adapter on it, as it is loaded from its own file."""
        folder = self._fresh_folder()
        trained.save_pretrained(str(folder))
        with told_to_peft(base):
            return cast(nn.Module, PeftModel.from_pretrained(base, str(folder))).eval()

    def _merged(self, trained: Any) -> tuple[nn.Module, Iterable[str]]:
        return self._saved(self._whole(trained), torch.float32)

    def _whole(self, trained: Any) -> nn.Module:
        """Return a trained model without its adapter, which is merged into it once."""
        if not isinstance(trained, PeftModel):
            return cast(nn.Module, trained)
        if self._unwrapped is None:
            if isinstance(trained.base_model, PreTrainedModel) or not hasattr(trained.base_model, "merge_and_unload"):
                message = f"peft cannot merge {self._spec.variant.label} into its base"
                raise _FormError(message)
            # Into few bits a merge would be rounded away, so people merge into the full weights, and so do we.
            whole = (
                self._adapted(self._task.load_model(self._spec.workload), trained) if is_quantized(trained) else trained
            )
            self._unwrapped = cast(nn.Module, cast(Any, whole).merge_and_unload())
        return self._unwrapped

    def _saved(self, model: Any, dtype: torch.dtype) -> tuple[nn.Module, Iterable[str]]:
        """Return a whole model as it is loaded from its own files, which have weights of some type."""
        folder = self._write(model, dtype)
        options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True, "use_safetensors": True}
        if (attention := self._spec.workload.model_args.get("attn_implementation")) is not None:
            options["attn_implementation"] = attention
        reloaded, loading = cast(Any, type(model)).from_pretrained(folder, **options)
        lost = sorted(map(str, (*loading.get("missing_keys", ()), *loading.get("mismatched_keys", ()))))
        if lost:
            message = f"its file lacks {len(lost)} of its weights ({_listed(lost)}), so they would be random"
            raise _FormError(message)
        changed = _differing(model.state_dict(), reloaded.state_dict())
        return cast(nn.Module, reloaded).eval().to(self._device), changed

    def _write(self, model: Any, dtype: torch.dtype) -> Path:
        if not isinstance(model, PreTrainedModel):
            message = f"{type(model).__name__} is not saved as models of transformers are"
            raise _FormError(message)
        folder = self._fresh_folder()
        model.to(dtype)  # type: ignore[arg-type]
        model.save_pretrained(str(folder))
        self._tokenizer.save_pretrained(str(folder))
        return folder

    def _deployed(self, trained: Any, deploy: Callable[[Path], Any]) -> tuple[nn.Module, Iterable[str]]:
        folder = self._write(self._whole(trained), torch.float32)
        served = deploy(folder)
        if served is None:
            message = f"{self._spec.variant.label}: deploy returned None, and must return a model"
            raise _FormError(message)
        has_weights = isinstance(served, nn.Module) and any(True for _ in served.parameters())
        return (served.eval() if has_weights else _Served(served)), ()

    def _fresh_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._scratch))


class _Served(nn.Module):
    """Anything that answers as a model does, for example an endpoint; its inputs lie on the CPU."""

    def __init__(self, served: Callable[..., Any]) -> None:
        super().__init__()
        self._served = [served]  # not registered, if it is a module without parameters
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, **inputs: Any) -> Any:
        return self._served[0](**inputs)


def _differing(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that are not what they were, beyond the rounding to another type."""
    return [
        name
        for name, tensor in before.items()
        if name not in after
        or after[name].shape != tensor.shape
        or not torch.equal(after[name].cpu(), tensor.detach().cpu().to(after[name].dtype))
    ]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _cause(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = text if len(text) <= _LONGEST_CAUSE else f"{text[:_LONGEST_CAUSE]} ..."
    return text if isinstance(error, _FormError | FtguardError) else f"{type(error).__name__}: {text}"
