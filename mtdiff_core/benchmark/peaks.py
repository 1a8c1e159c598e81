"""What this machine does at most: products of large matrices, and large convolutions.

Letters for shapes: N rows and columns, B batch, F channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from mtdiff_core.benchmark.timing import Subject


@attrs.frozen(kw_only=True)
class Peak:
    """A kernel that is known to run about as fast as anything does.

    Attributes:
        subject: Runs it.
        flops: Floating-point operations of one run; a multiplication and an addition are two.
    """

    subject: Subject
    flops: int


@attrs.frozen(kw_only=True)
class Sizes:
    """Large enough to fill a device, small enough to take a fraction of a second.

    Attributes:
        rows: N of the matrix product.
        batch: B of the convolution.
        channels: F of the convolution, in and out.
        size: H and W of the convolution.
    """

    rows: int
    batch: int
    channels: int
    size: int

    @classmethod
    def of(cls, device: torch.device) -> Sizes:
        """For a kind of device."""
        if device.type == "cpu":
            return cls(rows=1024, batch=16, channels=128, size=32)
        return cls(rows=8192, batch=256, channels=256, size=32)


def matmul_peak(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Peak:
    """``(N, N) @ (N, N)``."""
    left, right = (torch.randn(sizes.rows, sizes.rows, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    return _peak("matmul", dtype, lambda: torch.mm(left, right, out=out), 2 * sizes.rows**3)


def convolution_peak(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Peak:
    """A 3x3 convolution of ``(B, F, H, W)`` to the same, in channels_last; padding is counted like pixels."""
    shapes = (sizes.batch, sizes.channels, sizes.size, sizes.size), (sizes.channels, sizes.channels, 3, 3)
    maps, kernel = (
        torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last) for shape in shapes
    )
    flops = 2 * maps.numel() * 9 * sizes.channels
    return _peak("convolution", dtype, lambda: functional.conv2d(maps, kernel, padding=1), flops)


def _peak(kind: str, dtype: torch.dtype, run: Callable[[], Tensor], flops: int) -> Peak:
    def once() -> Tensor:
        with torch.inference_mode():
            return run()

    return Peak(subject=Subject(name=f"{kind} {str(dtype).removeprefix('torch.')}", run=once), flops=flops)
