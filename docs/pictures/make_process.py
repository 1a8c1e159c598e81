"""Draw the pictures of the process that docs/concepts.md shows, from the code that computes it.

python docs/pictures/make_process.py

Nothing is trained: the forward process is the recipe's own, and in place of a network stands the exact answer, by
Bayes' rule, for a world that holds the training digits and nothing else. Takes half a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from mtdiff_core.aggregators.blocks import BlockOptions, BlocksAggregator
from mtdiff_core.aggregators.curves import CURVES, CurveOptions
from mtdiff_core.assembly import assemble, open_held_out_data, open_training_data
from mtdiff_core.cli.console import load_registry
from mtdiff_core.data.batches import Batch, batch_of_rows
from mtdiff_core.diffusion.forward import ForwardProcess, NoiseLevel
from mtdiff_core.packaged import find_recipe
from mtdiff_core.randomness import generator
from mtdiff_core.recipe.loading import load_recipe
from mtdiff_core.schedule import CosineSchedule

HERE = Path(__file__).parent
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.color": "0.9",
    "svg.hashsalt": "mtdiff",
}
COLOURS = {"anchor": "0.2", "early": "C0", "fading": "C1", "proportional": "C2", "none": "C3"}
EXAMPLE = 1  # which test digit is shown
TIMES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.98)
JUDGED = 200  # test digits over which probabilities are averaged


@attrs.frozen
class World:
    """Digits and their labels, encoded, and the process that the recipe ``image+label`` takes them through.

    Attributes:
        process: The recipe's own.
        images: Encodings of the training images, ``(N, 1, H, W)``.
        labels: Their classes, ``(N,)``.
        codes: The label's code of each class, ``(K, 1, H, W)``.
        held_out: Test digits.
    """

    process: ForwardProcess
    images: Tensor
    labels: Tensor
    codes: Tensor
    held_out: Batch

    def with_curve(self, curve: str, strength: float = 1.0) -> ForwardProcess:
        """The process with another curve of the label's coefficient."""
        return attrs.evolve(self.process, options={"label": CurveOptions(curve=curve, strength=strength)})

    def encodings(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Both modalities' encodings; images are their own."""
        return {"image": images, "label": self.codes[labels]}

    def weights(self, process: ForwardProcess, z: Tensor, level: NoiseLevel) -> Tensor:
        """``p(x_j | z_t)`` of every training digit ``j`` with its label, ``(B, N)``: Bayes' rule, all alike before."""
        one = process.level_at(level.log_snr[:1])  # the same for the batch
        means = process.mean(self.encodings(self.images, self.labels), _repeated(one, len(self.images)))
        squares = torch.cdist(z.flatten(1), means.flatten(1)).square()  # (B, N)
        return (-squares / (2 * float(one.sigma.flatten()[0]) ** 2)).softmax(dim=1)


def world() -> World:
    """The data and the process of the recipe ``image+label``."""
    recipe = load_recipe(find_recipe("image+label"), load_registry())
    data = open_training_data(recipe)
    experiment = assemble(recipe, data.fields)
    train = batch_of_rows(data, experiment.sources, range(len(data)), seed=0)
    test = open_held_out_data(recipe, data)
    model, labels = experiment.model, train.values["label"]
    classes = torch.arange(int(labels.max()) + 1)
    with torch.no_grad():
        return World(
            process=model.process,
            images=model.encode({"image": train.values["image"]})["image"].double(),
            labels=labels,
            codes=model.encode({"label": classes})["label"].double(),
            held_out=batch_of_rows(test, experiment.sources, range(len(test)), seed=0),
        )


def _repeated(level: NoiseLevel, count: int) -> NoiseLevel:
    return NoiseLevel(
        log_snr=level.log_snr.expand(count),
        alpha=level.alpha.expand(count, -1, -1, -1),
        sigma=level.sigma.expand(count, -1, -1, -1),
        coefficient={name: c.expand(count, -1, -1, -1) for name, c in level.coefficient.items()},
    )


def coefficients() -> Figure:
    """What ``z_t`` carries over time: the levels, each curve, and what they are beside the noise."""
    t = torch.linspace(0.001, 0.999, 150, dtype=torch.float64)
    schedule = CosineSchedule()
    alpha, sigma = schedule.alpha_sigma(schedule.log_snr(t))
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.plot(t, sigma, color=COLOURS["anchor"], linestyle=":", label="$s_t$, the noise")
    left.plot(t, alpha, color=COLOURS["anchor"], linewidth=2.5, label="$a_t$, the anchor")
    middle.plot(t, alpha / sigma, color=COLOURS["anchor"], linewidth=2.5, label="$a_t/s_t$, the anchor")
    for name in ("proportional", "fading", "early"):
        curve = CURVES[name](alpha, sigma)
        left.plot(t, curve, color=COLOURS[name], label=f"$c_t$, {name}")
        middle.plot(t, curve / sigma, color=COLOURS[name], label=f"$c_t/s_t$, {name}")
    left.set_title("What $z_t$ is made of", loc="left")
    middle.set_title("The same beside the noise", loc="left")
    middle.set_yscale("log")
    middle.set_ylim(0.01, 30)
    blocks = BlocksAggregator()
    for shift, colour in ((2, "C4"), (0, COLOURS["anchor"]), (-2, "C5")):
        own = schedule.log_snr(t) + blocks.log_snr_shift(BlockOptions(log_snr_shift=shift))
        right.plot(t, own, color=colour, label=f"log_snr_shift = {shift}")
    right.set_title("In blocks: a log-SNR of its own", loc="left")
    right.set_ylim(-12, 12)
    for panel in (left, middle, right):
        panel.set_xlabel("t: data at 0, noise at 1")
        panel.legend(frameon=False, fontsize=8)
    return figure


def noisy(found: World) -> Figure:
    """One test digit on its way, without and with its label added, and what each noisy point says of it."""
    image = found.held_out.values["image"][EXAMPLE : EXAMPLE + 1].double()
    label = found.held_out.values["label"][EXAMPLE : EXAMPLE + 1]
    noise = torch.randn(image.shape, generator=generator(0, "process", "noise"), dtype=torch.float64)
    encodings = found.encodings(image, label)
    figure = Figure(figsize=(9.6, 9.4), layout="constrained")
    without, with_label = figure.subfigures(2, 1, height_ratios=[3, 4], hspace=0.04)
    without.suptitle("The label is not added to the image: curve = none", x=0.01, ha="left")
    with_label.suptitle("The label is added: curve = early, strength = 1.5, as in the recipe", x=0.01, ha="left")
    _walk(without, found, found.with_curve("none"), encodings, noise, int(label))
    _walk(with_label, found, found.process, encodings, noise, int(label))
    return figure


def _walk(
    figure: Any, found: World, process: ForwardProcess, encodings: dict[str, Tensor], noise: Tensor, label: int
) -> None:
    """Rows of pictures over time, and of the chances of each class."""
    rows: dict[str, Callable[[NoiseLevel], Tensor]] = {
        "the label's part:\n$c_t\\,e_\\mathrm{label}$": lambda level: level.coefficient["label"] * encodings["label"],
        "the noisy point:\n$z_t$": lambda level: process.marginal(encodings, level).sample(noise),
        "the image that is\nto be expected": lambda level: _expected_image(found, process, encodings, level, noise),
    }
    if not process.aggregator.carries(process.options["label"]):
        rows.pop(next(iter(rows)))
    panels = figure.subplots(len(rows) + 1, len(TIMES))
    for column, time in enumerate(TIMES):
        level = process.level(torch.tensor([time]))
        panels[0, column].set_title(f"t = {time:g}")
        for panel, draw in zip(panels[:-1, column], rows.values(), strict=True):
            panel.imshow(draw(level)[0, 0].numpy(), cmap="gray", vmin=-2, vmax=2)
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
        chances = _class_chances(found, process, encodings, level, noise)[0].tolist()
        colours = ["C0" if k == label else "0.6" for k in range(len(chances))]
        panel = panels[-1, column]
        panel.bar(range(len(chances)), chances, color=colours)
        panel.set(ylim=(0, 1), xticks=range(len(chances)), yticks=[0, 1] if column == 0 else [], box_aspect=0.8)
        panel.tick_params(labelsize=6, length=0)
        panel.grid(visible=False)
    for panel, text in zip(panels[:, 0], [*rows, "which digit it is:\n$p(\\mathrm{label}\\,|\\,z_t)$"], strict=True):
        panel.set_ylabel(text, rotation=0, ha="right", va="center", labelpad=8)


def _expected_image(
    found: World, process: ForwardProcess, encodings: dict[str, Tensor], level: NoiseLevel, noise: Tensor
) -> Tensor:
    """``E[image | z_t]``, ``(B, 1, H, W)``."""
    z = process.marginal(encodings, level).sample(noise)
    return torch.einsum("bj,jchw->bchw", found.weights(process, z, level), found.images)


def _class_chances(
    found: World, process: ForwardProcess, encodings: dict[str, Tensor], level: NoiseLevel, noise: Tensor
) -> Tensor:
    """``p(label | z_t)``, ``(B, K)``."""
    z = process.marginal(encodings, level).sample(noise)
    weights = found.weights(process, z, level)
    return weights.new_zeros(len(z), len(found.codes)).index_add_(1, found.labels, weights)


def decided(found: World) -> Figure:
    """How probable the right label is over time, under each curve."""
    images, labels = found.held_out.values["image"][:JUDGED].double(), found.held_out.values["label"][:JUDGED]
    noise = torch.randn(images.shape, generator=generator(0, "process", "many"), dtype=torch.float64)
    encodings = found.encodings(images, labels)
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    panel = figure.subplots()
    times = torch.linspace(0.02, 0.995, 60)
    for curve in ("none", "fading", "early", "proportional"):
        process = found.with_curve(curve)
        chances = [_chance(found, process, encodings, labels, time, noise) for time in times.tolist()]
        panel.plot(times.tolist(), chances, color=COLOURS[curve], label=f'curve = "{curve}"')
    panel.axhline(1 / len(found.codes), color="0.6", linestyle=":", linewidth=1)
    panel.set(xlabel="t: data at 0, noise at 1", ylabel="probability of the right label", ylim=(0, 1.02))
    panel.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def _chance(
    found: World, process: ForwardProcess, encodings: dict[str, Tensor], labels: Tensor, time: float, noise: Tensor
) -> float:
    """The probability of the right label at a time, in the mean."""
    level = process.level(torch.full((len(labels),), time))
    chances = _class_chances(found, process, encodings, level, noise)
    return float(chances.gather(1, labels[:, None]).mean())


def main() -> None:
    """Draw all of them beside this script."""
    found = world()
    figures: dict[str, Any] = {
        "process-coefficients.svg": coefficients(),
        "process-noisy.png": noisy(found),
        "process-decided.svg": decided(found),
    }
    for name, figure in figures.items():
        metadata = {"Date": None} if name.endswith("svg") else {"Software": None}
        figure.savefig(HERE / name, facecolor="white", dpi=110, metadata=metadata)
        print(HERE / name)


if __name__ == "__main__":
    with rc_context(STYLE):
        main()
