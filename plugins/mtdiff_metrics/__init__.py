"""Metrics: how good what a model generates is, against the real data, the truth, and what goes with it.

SSIM, LPIPS, the calibration error and the kernel of the kernel distance are torchmetrics' own. The Frechet distance,
the inception score, mean IoU and accuracy are computed here: their intervals are made of what each sample adds, of
which torchmetrics keeps nothing but sums, and only that is kept, so that memory stays bounded. They are checked against
torchmetrics' in ``tests/plugins``.
"""

from __future__ import annotations

from mtdiff_core import Metric, hookimpl
from mtdiff_metrics.distribution import (
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    NearestTraining,
    PrecisionRecall,
)
from mtdiff_metrics.reconstruction import Lpips, Psnr, Ssim
from mtdiff_metrics.truth import Accuracy, CalibrationError, MeanIou, Retrieval
from mtdiff_metrics.usefulness import Agreement, TrainOnSynthetic

MTDIFF_PLUGIN_API = "1.0"


@hookimpl
def mtdiff_metrics() -> dict[str, type[Metric]]:
    """All of them."""
    return {
        "frechet_distance": FrechetDistance,
        "kernel_distance": KernelDistance,
        "inception_score": InceptionScore,
        "precision_recall": PrecisionRecall,
        "nearest_training": NearestTraining,
        "accuracy": Accuracy,
        "calibration_error": CalibrationError,
        "mean_iou": MeanIou,
        "retrieval": Retrieval,
        "psnr": Psnr,
        "ssim": Ssim,
        "lpips": Lpips,
        "agreement": Agreement,
        "train_on_synthetic": TrainOnSynthetic,
    }
