"""What the quality tests share: shipped recipes, trained as a user would, and samples of them.

With ``$MTDIFF_QUALITY_RUNS``, runs are kept in that folder and not trained again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torchvision.transforms.v2.functional import to_pil_image

from mtdiff_image.digits import Digits
from tests.conftest import CLONE


def mtdiff(*arguments):
    """A command on all cores, which must succeed."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run([sys.executable, "-m", "mtdiff_core.cli.main", *map(str, arguments)], check=True, env=environment)


def train(recipe, seed, folder, *options, name=None):
    """The run directory of a shipped recipe."""
    kept = os.environ.get("MTDIFF_QUALITY_RUNS")
    out = Path(kept or folder) / f"{name or recipe}-{seed}"
    if not (out / "samples" / "samples.safetensors").exists():
        resume = ["--resume"] if (out / "recipe.toml").exists() else []
        mtdiff("run", CLONE / "recipes" / f"{recipe}.toml", "--seed", seed, "--out", out, *options, *resume)
    return out


def sample(run, folder, *arguments):
    """Samples of a run in natural units, by modality, written to a new folder."""
    out = folder / f"samples-{len(list(folder.glob('samples-*')))}"
    mtdiff("sample", run, "--out", out, *arguments)
    return load_file(out / "samples.safetensors")


def write_pictures(images, folder):
    """PNG files of images ``(N, C, H, W)`` in 0..1, in their order."""
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        to_pil_image((image * 255).round().byte()).save(folder / f"{i:05}.png")
    return folder


def digits(split):
    """Images ``(N, 1, 16, 16)`` in 0..1 and labels of a split."""
    samples = Digits(size=16).open(split)
    pairs = [samples[i] for i in range(len(samples))]
    return torch.stack([p["image"] for p in pairs]).float() / 255, torch.stack([p["label"] for p in pairs])


def share(right):
    """Share of what is true."""
    return right.float().mean().item()


def psnr(images, truth, where=None):
    """Peak signal-to-noise ratio in dB of images in 0..1, over all pixels or those where ``where`` is true."""
    error = (images - truth).square()
    return -10 * (error if where is None else error[where.expand_as(error)]).mean().log10().item()


def nearest_of_100(vectors, given):
    """Share of ``vectors`` ``(N, D)`` that of each 100 of ``given`` ``(N, D)`` are nearest to their own."""
    pairs = zip(vectors.split(100), given.split(100), strict=True)
    return share(torch.cat([torch.cdist(a, b).argmin(dim=1) == torch.arange(100) for a, b in pairs]))


def linear_probe(vectors, labels):
    """A linear classifier of vectors ``(N, D)``, by least squares."""

    def with_constant(x):
        return torch.cat([x, torch.ones(len(x), 1)], dim=1)

    weights = torch.linalg.lstsq(with_constant(vectors), torch.nn.functional.one_hot(labels).float()).solution
    return lambda x: (with_constant(x) @ weights).argmax(dim=1)


def report(what, found):
    """Print figures, rounded."""
    print(f"\n{what}: " + json.dumps({name: round(value, 4) for name, value in found.items()}), flush=True)
    return found
