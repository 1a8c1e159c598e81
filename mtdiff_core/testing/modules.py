"""What is done to networks, encoders and decoders alike to check them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from mtdiff_core.interfaces.backbone import Features
from mtdiff_core.randomness import generator
from mtdiff_core.testing.kit import CheckFailure, require, skip

M = TypeVar("M", bound=nn.Module)

# Compiled as far as gradients, without a C compiler: what cannot be traced fails here too.
COMPILER = "aot_eager"
# What torch says where tensors of two devices meet.
DIFFERENT_DEVICES = re.compile("same device|expected device|different devices")


def awake(module: M) -> M:
    """The module with noise on its parameters, so that layers that begin at 0 pass something on."""
    random = generator(0, "kit", "awake")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random).to(parameter))
    return module


def features_moved(features: Features, device: torch.device) -> Features:
    """Features elsewhere."""
    return Features(**{name: x.to(device) for name, x in vars(features).items()})


def features_of_rows(features: Features, rows: slice) -> Features:
    """Features of some samples."""
    return Features(**{name: x[rows] for name, x in vars(features).items()})


def require_gradient(what: str, gradient: Tensor | None) -> None:
    """Raise :class:`CheckFailure` unless a gradient is there, finite, and not 0 everywhere."""
    require(
        gradient is not None and bool(gradient.any()),
        f"{what} gets no gradient",
        "use it in forward, or make it a buffer; .data, .detach() and argmax cut gradients off",
    )
    require(
        bool(cast("Tensor", gradient).isfinite().all()), f"the gradient of {what} is not finite", "clamp before log"
    )


def require_no_batch_norm(module: nn.Module) -> None:
    """Raise :class:`CheckFailure` if samples are normalised by the others of their batch, as they are in training."""
    for name, part in module.named_modules():
        require(
            not isinstance(part, nn.modules.batchnorm._BatchNorm),
            f"{name!r} is a {type(part).__name__}: in training, what it makes of a sample changes with the others",
            "treat every sample by itself: group norm, not batch norm",
        )


def other_device() -> torch.device:
    """An accelerator, or the device that only knows shapes."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("meta")


@contextmanager
def where_values_are_unknown(device: torch.device) -> Iterator[None]:
    """Run a check on this device inside the block, skipped where it would take values and there are only shapes."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if device.type == "meta" and not DIFFERENT_DEVICES.search(str(error)):
            raise skip("it looks at its values, which takes a real accelerator to check") from error
        raise
    finally:
        Distribution.set_default_validate_args(before)


def require_device(given: Mapping[str, Tensor], device: torch.device) -> None:
    """Raise :class:`CheckFailure` unless all that was given lies on a device."""
    for what, tensor in given.items():
        require(
            tensor.device.type == device.type,
            f"{what} gave a tensor on {tensor.device}, with weights and inputs on {device}",
            "make tensors with device=values.device, or keep them in buffers",
        )


def saved_weights(module: nn.Module) -> bytes:
    """The weights as a file has them."""
    tensors = {name: x.contiguous().clone() for name, x in module.state_dict().items()}
    return safetensors.torch.save(tensors)


def load_weights(module: nn.Module, saved: bytes, side: str) -> None:
    """Give a module saved weights."""
    try:
        module.load_state_dict(safetensors.torch.load(saved))
    except RuntimeError as error:
        raise CheckFailure(
            f"saved weights of the {side} do not fit a new one ({str(error).splitlines()[-1].strip()})",
            "register all parameters and buffers when it is built, in the same shapes each time",
        ) from error
