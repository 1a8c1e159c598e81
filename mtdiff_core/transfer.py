"""Between host and device, without either waiting for the other."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor on a device, or at another precision; the host does not wait until it is there.

    A GPU reads by itself from pinned memory alone, so what lies in other memory is put there first.
    """
    if device is not None and torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device=device, dtype=dtype, non_blocking=True)


class Fetched:
    """A tensor on its way to the host; who reads it waits for what was asked of the device before it, and no more.

    Args:
        tensor: Any.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._arrived = tensor.detach(), None
        if tensor.device.type == "cuda":
            self._tensor = self._tensor.to("cpu", non_blocking=True)  # in pinned memory
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> Tensor:
        """The tensor."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensor
