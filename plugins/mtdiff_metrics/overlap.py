"""Mean intersection over union (Everingham et al. 2010, section 4.1.3) from counts, which can be added up.

Letters for shapes: B batch, R resamples, K classes, H W height and width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def overlaps(found: Tensor, truth: Tensor, classes: int, ignore: int = -1) -> Tensor:
    """Pixels in the intersection and in the union of each class, int32 ``(B, 2K)``: intersections, then unions.

    Args:
        found: int64 ``(B, H, W)``.
        truth: int64 ``(B, H, W)``.
        classes: K.
        ignore: Pixels that are so in ``truth``, or are none of the classes there, count nowhere; nor is it a class that
            could be found wrongly.
    """
    counted = (truth != ignore) & (truth >= 0) & (truth < classes)
    both, either = [], []
    for one in range(classes):
        here, there = (found == one) & counted & (one != ignore), (truth == one) & counted
        both.append((here & there).sum(dim=(1, 2)))
        either.append((here | there).sum(dim=(1, 2)))
    return torch.stack([*both, *either], dim=1).int()


def mean_iou(counts: Tensor) -> Tensor:
    """Of counts, or means of them, ``(R, 2K)``: the mean over classes that are in either, ``(R,)``."""
    both, either = counts.double().chunk(2, dim=1)
    seen = either > 0
    return torch.where(seen, both / either.clamp(min=1e-12), 0).sum(dim=1) / seen.sum(dim=1).clamp(min=1)
