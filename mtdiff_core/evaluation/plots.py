"""The report's plots, as SVG that stands inside a page and has the page's colours, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import attrs
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from mtdiff_core.evaluation.markup import Html, element, finite, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Colours that stand for the page's own: matplotlib writes them out, and the page's variables take their place.
INK, FAINT, LINE = "#010101", "#020202", "#030303"
SERIES = ("#100000", "#100001", "#100002", "#100003", "#100004", "#100005")
VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    LINE: "var(--line)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(SERIES)},
}
# So that series can be told apart without their colours: lengths of strokes and gaps, in line widths.
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.5), (1.2, 1.2), (6, 1.5, 1.2, 1.5), (2.5, 1.2), (8, 2))

STYLE = {
    "svg.fonttype": "none",  # the page's font
    "svg.hashsalt": "mtdiff",  # names of marks and clips, otherwise random
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
}
# Values that differ by more are drawn on a log scale.
WIDE_RANGE = 5
# How far apart, as a factor, the first and the last of several series are drawn at one number of steps.
BESIDE = 1.12
# Signal-to-noise beyond these has nothing left to be decided, or nothing decided yet.
LEAST_RATIO, MOST_RATIO = 1e-3, 1e3


@attrs.frozen(kw_only=True)
class Series:
    """Points to be drawn; numbers that are None or not finite are left out.

    Attributes:
        name: For the legend.
        x: Where each stands.
        y: What it is.
        low: Lower end of each point's interval; none if empty.
        high: Upper end.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


def legend(names: Sequence[str]) -> Html:
    """Names beside the strokes that series have, in their order."""
    return element("ul", *(element("li", _stroke(index), name) for index, name in enumerate(names)), class_="legend")


def steps_plot(key: str, alt: str, series: Sequence[Series], steps_of: str, unit: str) -> Html:
    """Values and their intervals over a few numbers of steps; what they are steps of is written below.

    On a log scale if they differ much; intervals end where it does.
    """

    def paint(axes: Axes) -> None:
        axes.set_xscale("log")
        steps = sorted({x for one in series for x in one.x})
        axes.set_xticks(steps, [number(x) for x in steps])
        axes.xaxis.set_minor_locator(NullLocator())
        drawn = [y for one in series for y in one.y if y is not None and finite(y)]
        least = min(drawn) / 2 if drawn and min(drawn) > 0 and max(drawn) > WIDE_RANGE * min(drawn) else None
        if least is not None:
            axes.set_yscale("log")
            _log_numbers(axes.yaxis, max(drawn) / min(drawn))
        for index, one in enumerate(series):
            apart = BESIDE ** (index / max(1, len(series) - 1) - 0.5)
            x = [at * apart for at in one.x]
            ends = [
                (at, low if least is None else max(low, least), high)
                for at, low, high in zip(x, one.low, one.high, strict=True)
                if low is not None and high is not None and finite(low) and finite(high)
            ]
            if ends:
                axes.vlines(*zip(*ends, strict=True), color=_colour(index), linewidth=3, alpha=0.4)
            axes.plot(x, _drawable(one.y), marker="o", markersize=4, **_looks(index))
        axes.margins(x=0.08, y=0.12)
        axes.set_xlabel(steps_of)
        axes.set_ylabel(unit, parse_math=False)
        if least is None:
            _plain_numbers(axes.yaxis)

    return _plot(key, alt, paint)


def loss_plot(key: str, alt: str, rough: Series, smooth: Series) -> Html:
    """A loss term in training, as logged and smoothed; a log scale if it changes much."""

    def paint(axes: Axes) -> None:
        axes.plot(rough.x, _drawable(rough.y), color=SERIES[0], alpha=0.35, linewidth=0.8)
        marker = "o" if len(smooth.x) == 1 else ""  # a line of one point is invisible
        axes.plot(smooth.x, _drawable(smooth.y), color=SERIES[0], linewidth=1.8, marker=marker)
        drawn = [y for y in rough.y if y is not None]
        if min(drawn) > 0 and max(drawn) > WIDE_RANGE * min(drawn):
            axes.set_yscale("log")
            _log_numbers(axes.yaxis, max(drawn) / min(drawn))
        else:
            _plain_numbers(axes.yaxis)
        axes.margins(x=0.01)
        axes.set_xlabel("training step")
        _plain_numbers(axes.xaxis)

    return _plot(key, alt, paint)


def density_plot(key: str, alt: str, centres: Sequence[float], sums: Sequence[float | None], colour: int) -> Html:
    """What strata of log-SNR hold, each divided by its width, so that areas can be compared.

    Args:
        key: Name of the plot, none other's on the page.
        alt: What it shows, in words.
        centres: Log-SNR in the middle of each stratum, at least two of them, all different.
        sums: What each stratum holds, in nats.
        colour: Which of the series' colours.
    """

    def paint(axes: Axes) -> None:
        pairs = sorted(zip(centres, _drawable(sums), strict=True))
        edges = stratum_edges([centre for centre, _ in pairs])
        heights = [held / (right - left) for (_, held), (left, right) in zip(pairs, pairwise(edges), strict=True)]
        axes.stairs(heights, edges, fill=True, color=_colour(colour), alpha=0.3)
        axes.stairs(heights, edges, color=_colour(colour), linewidth=1.4)
        axes.margins(x=0.01)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("log-SNR")
        axes.set_ylabel("nats per unit of log-SNR")
        _plain_numbers(axes.xaxis)
        _plain_numbers(axes.yaxis)

    return _plot(key, alt, paint)


def stratum_edges(centres: Sequence[float]) -> list[float]:
    """Ends of neighbouring strata, of which the outer ones are as wide as their neighbours leave them.

    Args:
        centres: The middle of each, increasing, ``(K,)`` with ``K >= 2``.

    Returns:
        ``(K + 1,)``.
    """
    inner = [(a + b) / 2 for a, b in pairwise(centres)]
    return [2 * centres[0] - inner[0], *inner, 2 * centres[-1] - inner[-1]]


def ratio_plot(key: str, alt: str, series: Sequence[Series]) -> Html:
    """Signal-to-noise ratios over log-SNR; a ratio of zero has no place on the log scale and is left out."""

    def paint(axes: Axes) -> None:
        axes.axhline(1, color=FAINT, linewidth=1)
        for index, one in enumerate(series):
            positive = [y if y is not None and y > 0 else None for y in one.y]
            axes.plot(one.x, _drawable(positive), **_looks(index))
        drawn = [y for one in series for y in one.y if y is not None and finite(y) and y > 0]
        low, high = max(LEAST_RATIO, min(drawn)), min(MOST_RATIO, max(drawn))
        axes.set_yscale("log")
        axes.set_ylim(min(low, 0.1), max(high, 10))
        axes.margins(x=0.01)
        axes.set_xlabel("log-SNR")
        axes.set_ylabel("signal to noise")
        _plain_numbers(axes.xaxis)
        _log_numbers(axes.yaxis, 1e4)

    return _plot(key, alt, paint, width=6.4, height=3.0)


def _plot(key: str, alt: str, paint: Callable[[Axes], None], width: float = 3.7, height: float = 2.4) -> Html:
    """Draw on new axes, inches wide and high."""
    # The SVG writer knows its options from there alone; a user's own matplotlibrc must not change the report.
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True)
    return _inline(buffer.getvalue(), key, alt)


def _inline(svg: str, key: str, alt: str) -> Html:
    """An SVG document as an element of a page: without what only a file has, and with names that are its own."""
    body = svg[svg.index("<svg") : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    opening, _, body = body.partition(">")
    box = re.search(r'viewBox="([\d. -]+)"', opening)
    body = body.replace("xlink:href", "href").replace('href="#', f'href="#{key}-').replace("url(#", f"url(#{key}-")
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)  # its size, of the page's own font
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, variable)
    return element("svg", Html(body), class_="plot", viewBox=box[1] if box else None, role="img", aria_label=alt)


def _stroke(index: int) -> Html:
    """A short line that looks as a series does."""
    dashes = _dashes(index)
    line = element(
        "line",
        x1=0,
        x2=28,
        y1=5,
        y2=5,
        stroke=VARIABLES[_colour(index)],
        stroke_width=2.2,
        stroke_dasharray=" ".join(f"{2.2 * length:.3g}" for length in dashes) or None,
    )
    return element("svg", line, width=28, height=10, viewBox="0 0 28 10", aria_hidden="true")


def _colour(index: int) -> str:
    return SERIES[index % len(SERIES)]


def _dashes(index: int) -> tuple[float, ...]:
    """Shifted by one for each round of the colours, so that as many series differ as there are pairs of the two."""
    return DASHES[(index + index // len(SERIES)) % len(DASHES)]


def _looks(index: int) -> dict[str, Any]:
    dashes = _dashes(index)
    return {"color": _colour(index), "linewidth": 1.8, "linestyle": (0, dashes) if dashes else "-"}


def _drawable(values: Sequence[float | None]) -> list[float]:
    """Numbers that leave a gap where there is none, or it is not finite."""
    return [value if value is not None and finite(value) else float("nan") for value in values]


def _plain_numbers(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 6)))


def _log_numbers(axis: Axis, range_: float) -> None:
    """Numbers on a log scale: every decade, and more where there are few; a range is the largest over the smallest."""
    if range_ < 1000:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    _plain_numbers(axis)
    axis.set_minor_formatter(NullFormatter())
