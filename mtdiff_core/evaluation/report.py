"""report.html: one page with everything that an evaluation found, which needs nothing but itself."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mtdiff_core.evaluation.markup import NOTHING, Html, element, finite, interval, number, table, together
from mtdiff_core.evaluation.page import page
from mtdiff_core.evaluation.plots import Series, density_plot, legend, loss_plot, ratio_plot, steps_plot
from mtdiff_core.evaluation.strip import letters, strip
from mtdiff_core.files import read_text, write_atomically
from mtdiff_core.intervals import OUTSIDE, WHY_OUTSIDE, is_outside
from mtdiff_core.picture import grid_png

if TYPE_CHECKING:
    from mtdiff_core.generation import Generated
    from mtdiff_core.interfaces.modality import Modality

CHECKSUM = 12  # digits that are enough to tell runs apart
POINTS = 500  # of a training curve; more cannot be told apart
SMOOTHED = 0.02  # half the width of the moving average, as a share of the curve
LOSS = "loss/"  # what names of loss terms begin with in the log

Curve = tuple[list[float], list[float]]


def write_report(
    path: Path,
    found: Mapping[str, Any],
    shown: Mapping[str, Generated],
    modalities: Mapping[str, Modality],
    metrics_log: Path,
) -> None:
    """Write the page. The same input gives the same bytes.

    Args:
        path: Of the page.
        found: What ``Evaluation.run`` gives, or ``evaluation.json`` holds: numbers that are not finite may be None.
        shown: The samples to draw, by direction.
        modalities: All modalities, bound.
        metrics_log: The run's ``metrics.jsonl``; need not be there.

    Raises:
        UserError: The log cannot be read, or the page cannot be written.
    """
    directions = [
        (f"direction-{index}", one["direction"], _direction(one, shown.get(one["direction"]), modalities))
        for index, one in enumerate(found["directions"])
    ]
    further = [
        ("steps", "Quality against sampling steps", _by_steps(found["by_steps"])),
        ("training", "Training", _training(loss_curves(metrics_log))),
        ("bound", "Bound of the likelihood", _bounds(found)),
        ("aggregation", "What is decided when", _aggregation(found["aggregation"])),
    ]
    title = f"{found['recipe']} at step {found['step']}: evaluation"
    sections = [(key, _arrow(name), body) for key, name, body in directions + further]
    write_atomically(path, page(title, _header(found), sections))


def loss_curves(metrics_log: Path) -> dict[str, Curve]:
    """Steps and finite values of each loss term, by its name; lines that are not whole are left out.

    Raises:
        UserError: The log is there and cannot be read.
    """
    curves: dict[str, Curve] = {}
    for line in read_text(metrics_log).splitlines() if metrics_log.exists() else []:
        try:
            logged = json.loads(line)
        except json.JSONDecodeError:  # a run that was cut off, or is being written
            continue
        if not isinstance(logged, dict) or "step" not in logged:
            continue
        for key, value in logged.items():
            if key.startswith(LOSS) and finite(value):
                steps, values = curves.setdefault(key.removeprefix(LOSS), ([], []))
                steps.append(logged["step"])
                values.append(value)
    return curves


def _header(found: Mapping[str, Any]) -> Iterable[Html]:
    """What was evaluated, and how it was sampled from."""
    settings = found["settings"]
    yield element("p", "mtdiff evaluation", class_="kicker")
    yield element("h1", found["recipe"])
    if found["description"]:
        yield element("p", found["description"], class_="lead")
    about = {
        "Training step": found["step"],
        "Training seed": found["training_seed"],
        "Weights, SHA-256": element("code", found["weights"][:CHECKSUM], title=found["weights"]),
        "Sampler": settings["sampler"],
        "Sampling steps": f"{settings['steps']} of {settings['diffusion_steps']}",
        "Guidance": _guidance(settings["guidance"]),
        "Sampling seed": settings["seed"],
        "Given values from": f"the {found['split']} split",
        "Batch size": settings["batch_size"],
    }
    pairs = (element("div", element("dt", name), element("dd", value)) for name, value in about.items())
    yield element("dl", *pairs, class_="about")


def _guidance(guidance: Mapping[str, Any]) -> str:
    if not guidance["scale"]:
        return "none"
    return f"{number(guidance['scale'])}{', by context' if guidance['by_context'] else ''}"


def _direction(one: Mapping[str, Any], shown: Generated | None, modalities: Mapping[str, Modality]) -> Html:
    """A direction's figures and samples."""
    name = _arrow(one["direction"])
    told = f"{one['n']} samples in {one['steps']} steps, {number(one['seconds'])} s"
    parts = [element("p", told, class_="note")]
    if one["figures"]:
        heads = ["figure", "better", "value", "95% interval", "n", "value, interval and baselines", "baselines"]
        judges = list(dict.fromkeys(figure["features"] for figure in one["figures"] if figure["features"]))
        parts.append(table(f"Figures of {name}", heads, [_figure_row(figure, judges) for figure in one["figures"]]))
        parts += [element("p", element("sup", i), f" by {judge}", class_="note") for i, judge in enumerate(judges, 1)]
        parts += _outside_note(one["figures"])
    else:
        parts.append(element("p", "No metric has a figure of this direction."))
    if one["refused"]:
        rows = list(one["refused"].items())
        parts += [element("h3", "Not computed"), table(f"Not computed of {name}", ["metric", "why"], rows)]
    if shown is not None:
        parts += [element("h3", "Samples"), _samples(name, shown, modalities)]
    return together(parts)


def _figure_row(figure: Mapping[str, Any], judges: Sequence[str]) -> list[object]:
    """Cells of a figure; who judged is said below the table, by number."""
    mark_of = letters(figure["baselines"])
    baselines = (
        element("li", element("b", mark_of[name]), f" {name} ", element("span", number(value), class_="number"))
        for name, value in figure["baselines"].items()
    )
    judge = element("sup", judges.index(figure["features"]) + 1) if figure["features"] else ""
    return [
        together([figure["name"], judge, element("small", f"of {' + '.join(figure['of'])}")]),
        better_way(figure["better"]),
        together([element("strong", number(figure["value"])), _unit(figure)]),
        element("span", _interval(figure), class_="number"),
        figure["n"],
        strip(figure),
        element("ul", *baselines) if figure["baselines"] else NOTHING,
    ]


def _unit(figure: Mapping[str, Any]) -> Html:
    return element("small", figure["unit"]) if figure["unit"] else together([])


def _interval(figure: Mapping[str, Any]) -> Html:
    """A figure's interval, marked if it does not hold the value."""
    outside = is_outside(figure["value"], figure["interval"])
    return together([interval(figure["interval"]), element("sup", OUTSIDE) if outside else ""])


def _outside_note(figures: Iterable[Mapping[str, Any]]) -> list[Html]:
    """What the mark of :func:`_interval` means, where there is one."""
    marked = any(is_outside(figure["value"], figure["interval"]) for figure in figures)
    return [element("p", element("sup", OUTSIDE), f" {WHY_OUTSIDE}", class_="note")] if marked else []


def better_way(better: str) -> Html:
    """An arrow that says which values are the better ones."""
    arrow = "↑" if better == "higher" else "↓"
    return element("span", f"{arrow} {better}", class_="number")


def _samples(name: str, shown: Generated, modalities: Mapping[str, Modality]) -> Html:
    """The grid picture, inside the page."""
    data = base64.b64encode(grid_png([shown], modalities)).decode()
    alt = f"Grid of {len(shown)} samples of {name}"
    caption = f"The first {len(shown)} samples; the line above them says what stands where."
    picture = element("img", src=f"data:image/png;base64,{data}", alt=alt)
    return element("figure", picture, element("figcaption", caption))


def _by_steps(rows: Sequence[Mapping[str, Any]]) -> Html:
    """One direction, judged at several numbers of steps."""
    by_name: dict[str, dict[str, list[tuple[int, Mapping[str, Any]]]]] = {}
    for row in rows:
        for figure in row["figures"]:
            of = by_name.setdefault(figure["name"], {}).setdefault(" + ".join(figure["of"]), [])
            of.append((row["steps"], figure))
    if not rows:
        return element("p", "Only one number of sampling steps was judged.")
    name = _arrow(rows[0]["direction"])
    plots = (_steps_figure(f"steps-{i}", *one) for i, one in enumerate(by_name.items()))
    cells = [
        [together([f"{metric} of {of}", _unit(figures[0][1])]), *(_at_steps(figures, row["steps"]) for row in rows)]
        for metric, several in by_name.items()
        for of, figures in several.items()
    ]
    seconds = ["seconds", *(number(row["seconds"]) for row in rows)]
    return together(
        [
            element("p", f"{name}. Bars are 95% intervals.", class_="note"),
            element("div", *plots, class_="plots"),
            table(
                "Figures by sampling steps", ["figure", *(f"{row['steps']} steps" for row in rows)], [*cells, seconds]
            ),
            *_outside_note(figure for row in rows for figure in row["figures"]),
        ]
    )


def _steps_figure(key: str, metric: str, several: Mapping[str, Sequence[tuple[int, Mapping[str, Any]]]]) -> Html:
    """One figure of one or several modalities over the number of steps."""
    series = [
        Series(
            name=of,
            x=[steps for steps, _ in figures],
            y=[figure["value"] for _, figure in figures],
            low=[(figure["interval"] or (None, None))[0] for _, figure in figures],
            high=[(figure["interval"] or (None, None))[1] for _, figure in figures],
        )
        for of, figures in several.items()
    ]
    any_figure = next(iter(several.values()))[0][1]
    better = better_way(any_figure["better"])
    if len(series) > 1:
        caption = [element("strong", metric), " ", better, legend([one.name for one in series])]
    else:
        caption = [element("strong", metric), f" of {series[0].name} ", better]
    if not any(finite(y) for one in series for y in one.y):
        return _figure(caption, element("p", "no finite value"))
    alt = f"{metric} over sampling steps, of {', '.join(several)}; the table below has the numbers"
    return _figure(caption, steps_plot(key, alt, series, "sampling steps", any_figure["unit"]))


def _at_steps(figures: Sequence[tuple[int, Mapping[str, Any]]], steps: int) -> object:
    """The cell of a figure at so many steps."""
    for there, figure in figures:
        if there == steps:
            return together([element("strong", number(figure["value"])), element("small", _interval(figure))])
    return NOTHING


def _training(curves: Mapping[str, Curve]) -> Html:
    if not curves:
        return element("p", "The run has no log of its training.")
    plots = (_loss_figure(f"loss-{i}", *one) for i, one in enumerate(curves.items()))
    note = element("p", "Each term of the loss, as logged (thin) and smoothed (bold).", class_="note")
    return together([note, element("div", *plots, class_="plots")])


def _loss_figure(key: str, name: str, curve: Curve) -> Html:
    steps, values = thinned(curve)
    width = round(SMOOTHED * len(values))
    alt = f"Loss of {name} in training: {number(values[0])} at step {steps[0]:.0f}, {number(values[-1])} at the end"
    rough, smooth = (Series(name=name, x=steps, y=y) for y in (values, smoothed(values, width)))
    return _figure([element("strong", name)], loss_plot(key, alt, rough, smooth))


def thinned(curve: Curve) -> Curve:
    """The means of neighbouring points, so that at most ``POINTS`` are left."""
    steps, values = curve
    size = -(-len(steps) // POINTS)
    starts = range(0, len(steps), size)
    return [fmean(steps[i : i + size]) for i in starts], [fmean(values[i : i + size]) for i in starts]


def smoothed(values: Sequence[float], half: int) -> list[float]:
    """The mean of each value and of up to ``half`` on either side, as many on the one as on the other."""
    last = len(values) - 1
    reach = [min(half, i, last - i) for i in range(len(values))]
    return [fmean(values[i - r : i + r + 1]) for i, r in enumerate(reach)]


def _bounds(found: Mapping[str, Any]) -> Html:
    """The bound of every direction."""
    bounds, names = found["bound"], list(found["aggregation"]["signal_to_noise"])
    if not bounds:
        return element("p", "The bound was not computed.")
    heads = [
        "direction", "nats", "95% interval", "bits per dimension", "95% interval", "n", "steps computed",
        "error of their choice, nats",
    ]  # fmt: skip
    rows = [
        [
            _arrow(one["direction"]),
            element("strong", number(one["nats"]["value"], 5)),
            interval(one["nats"]["interval"]),
            element("strong", number(one["bits_per_dimension"]["value"])),
            interval(one["bits_per_dimension"]["interval"]),
            one["n"],
            f"{one['computed']} of {one['steps']}",
            number(one["error_of_steps"], 2),
        ]
        for one in bounds
    ]
    told = f"An upper bound of −log p(generated | known) for a sample of the {found['split']} split: lower is better."
    parts = [element("p", told, class_="note"), table("Bound by direction", heads, rows)]
    parts += [_bound_groups(f"bound-{index}", one, names) for index, one in enumerate(bounds)]
    return together(parts)


def _bound_groups(key: str, one: Mapping[str, Any], names: Sequence[str]) -> Html:
    """What the bound of one direction is made of; modalities have the colours of their places among ``names``."""
    name = _arrow(one["direction"])
    rows = [
        [
            " + ".join(group["of"]),
            _mean(group["nats"]),
            _mean(group["prior"]),
            _mean(group["diffusion"]),
            ", ".join(_part(name, value, group) for name, value in group["reconstruction"].items()),
        ]
        for group in one["groups"]
    ]
    heads = ["nats of", "all", "prior", "diffusion", "reconstruction"]
    plots = (_density(f"{key}-{i}", one, group, names.index(group["of"][0])) for i, group in enumerate(one["groups"]))
    return together(
        [
            element("h3", name),
            table(f"Terms of the bound of {name}", heads, rows),
            element("div", *plots, class_="plots"),
        ]
    )


def _mean(mean: Mapping[str, Any]) -> Html:
    return together([element("strong", number(mean["value"])), element("small", interval(mean["interval"]))])


def _part(name: str, value: float | None, group: Mapping[str, Any]) -> str:
    """What reconstructing a modality costs, named where there are several."""
    return f"{name} {number(value)}" if len(group["of"]) > 1 else number(value)


def _density(key: str, one: Mapping[str, Any], group: Mapping[str, Any], colour: int) -> Html:
    """Where on the way from noise to data the nats of a group are spent."""
    centres, name = one["log_snr"], " + ".join(group["of"])
    caption = [element("strong", name), ": where its diffusion term comes from"]
    drawable = any(finite(held) for held in group["by_log_snr"])
    if len(set(centres)) < max(2, len(centres)) or not drawable:
        return _figure(caption, element("p", "too few steps were computed for a curve"))
    alt = f"Nats of {name} per unit of log-SNR, from {number(min(centres))} to {number(max(centres))}"
    return _figure(caption, density_plot(key, alt, centres, group["by_log_snr"], colour))


def _aggregation(aggregation: Mapping[str, Any]) -> Html:
    """When the signal of each modality rises above the noise."""
    log_snr = aggregation["log_snr"]
    series = [Series(name=name, x=log_snr, y=y) for name, y in aggregation["signal_to_noise"].items()]
    drawn = [one for one in series if any(finite(y) and y for y in one.y)]
    told = (
        "Signal of each modality against the noise in its channels. Sampling goes from left to right. On the grey line "
        "an entry has as much signal as noise; what many entries say together can be read well before it."
    )
    rows = [[one.name, ", ".join(number(round(x, 2) + 0.0) for x in crossings(one)) or "nowhere"] for one in series]
    parts = [element("p", told, class_="note")]
    if drawn:
        alt = f"Signal to noise over log-SNR of {', '.join(one.name for one in drawn)}"
        plot = ratio_plot("aggregation-plot", alt, drawn)
        parts.append(element("div", _figure([legend([one.name for one in drawn])], plot), class_="wide"))
    parts.append(table("Where signal equals noise", ["modality", "as much signal as noise at log-SNR"], rows))
    return together(parts)


def crossings(ratio: Series) -> list[float]:
    """Where a ratio is 1, increasing: between neighbouring points on a straight line of its logarithm."""
    points = sorted(
        (x, math.log(y)) for x, y in zip(ratio.x, ratio.y, strict=True) if y is not None and 0 < y < math.inf
    )
    return [
        x + (further - x) * y / (y - later) for (x, y), (further, later) in pairwise(points) if (y < 0) != (later < 0)
    ]


def _figure(caption: Sequence[object], content: Html) -> Html:
    return element("figure", element("figcaption", *caption), content)


def _arrow(direction: str) -> str:
    """A direction as it is read, not typed."""
    return direction.replace("->", "→")
