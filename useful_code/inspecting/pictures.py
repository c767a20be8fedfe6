"""The pictures of the page: histograms, shares with their intervals, correlations."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from useful_code.inspecting.seen import Seen
from useful_code.report_figures import BLUE, DARK, GREY, VERMILION, finish, new_figure, say_empty

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {"rejected": VERMILION, "prompt": GREY}  # every other series is blue
PANELS_IN_A_LINE = 3
MOST_BARS = 60
FEW_BARS = 6  # each then has its number below it


class Panel(NamedTuple):
    """One histogram, of up to three series on the same bins."""

    title: str
    xlabel: str
    series: Mapping[str, np.ndarray]  # name -> finite values
    log: bool = False  # bins that grow in proportion, for lengths and counts of at least 1
    ylabel: str = "rows (%)"


class Share(NamedTuple):
    """One line of `share_lines`: a share with its 95 % interval."""

    name: str
    share: float
    low: float
    high: float
    note: str  # behind the interval


def histograms(panels: Sequence[Panel]) -> "Figure":
    """All panels, three in a line; bars that touch, each series in per cent of its own values."""
    lines = -(-len(panels) // PANELS_IN_A_LINE)
    columns = min(PANELS_IN_A_LINE, max(1, len(panels)))
    figure = new_figure(width=3.4 * columns, height=2.7 * max(1, lines))
    if not panels:
        say_empty(figure, "nothing to draw")
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(lines, columns, index + 1)
        finish(axes, title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
        values = np.concatenate([np.asarray(each, dtype=float) for each in panel.series.values()] or [np.empty(0)])
        if not len(values):
            say_empty(axes, "no values")
            continue
        edges = bin_edges(values, panel.log)
        for name, numbers in panel.series.items():
            color = COLORS.get(name, BLUE)
            weights = np.full(len(numbers), 100 / max(1, len(numbers)))
            look: dict[str, Any] = {"bins": edges, "weights": weights, "color": color}
            axes.hist(numbers, **look, histtype="stepfilled", alpha=0.25)
            axes.hist(numbers, **look, histtype="step", linewidth=1.4)
            axes.fill([], [], facecolor=(color, 0.25), edgecolor=color, linewidth=1.4, label=name)
        if panel.log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
            axes.xaxis.set_minor_formatter(lambda value, _: "")
        elif len(edges) <= FEW_BARS + 1:
            axes.set_xticks((edges[1:] + edges[:-1]) / 2)
        if len(panel.series) > 1:
            axes.legend(frameon=False, fontsize=7.5)
    return figure


def rows_per_prompt(seen: Seen) -> Panel:
    numbers = seen.rows_per_prompt()
    return Panel("Rows per prompt", "rows", {"": numbers}, log=numbers.max() > MOST_BARS, ylabel="prompts (%)")


def bin_edges(values: np.ndarray, log: bool = False) -> np.ndarray:
    """Edges that hold all values. Numbers on a grid (counts, ratings in thirds) get bars around whole grid points.

    >>> bin_edges(np.array([1.0, 2.0, 2.0, 4.0])).tolist()
    [0.5, 1.5, 2.5, 3.5, 4.5]
    """
    different = np.unique(values)
    low, high = float(different[0]), float(different[-1])
    if log:
        return np.geomspace(max(1.0, low) * 0.999, max(2.0, high) * 1.001, 41)
    if low == high:
        return np.array([low - 0.5, low + 0.5])
    step = float(np.diff(different).min())
    places = (different - low) / step
    if np.allclose(places, np.round(places), atol=1e-2) and (places[-1] < MOST_BARS or step >= 1):
        width = step * -(-round(places[-1] + 1) // MOST_BARS)  # where there are many, several grid points share a bar
        num_bars = -(-round(places[-1] + 1) // round(width / step))
        return low - step / 2 + width * np.arange(num_bars + 1)
    return np.linspace(low, high, 41)


def share_lines(shares: Sequence[Share], xlabel: str) -> "Figure":
    """A dot and a 95 % interval per line, around the mark of one half."""
    figure = new_figure(width=8.6, height=0.9 + 0.34 * max(1, len(shares)))
    axes = figure.add_subplot()
    finish(axes, title="", xlabel=xlabel, ylabel="")
    if not shares:
        say_empty(axes, "nothing to compare")
        return figure
    axes.axvline(50, color=GREY, linewidth=1, linestyle=":")
    for y, share in enumerate(reversed(shares)):
        color = VERMILION if share.low > 0.5 or share.high < 0.5 else BLUE
        axes.plot([100 * share.low, 100 * share.high], [y, y], color=color, linewidth=1.4)
        axes.plot(100 * share.share, y, "o", color=color, markersize=5)
        axes.text(101, y, share.note, va="center", fontsize=7.5, color=DARK)
    axes.set(xlim=(0, 100), ylim=(-0.6, len(shares) - 0.4))
    axes.set_yticks(range(len(shares)), [share.name for share in reversed(shares)])
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#E3E3E3", linewidth=0.7)
    return figure


def correlations(names: Sequence[str], matrix: np.ndarray) -> "Figure":
    """Rank correlations as a coloured table, (K, K); NaN stays white."""
    side = 1.6 + 0.42 * len(names)
    figure = new_figure(width=side + 1.2, height=side)
    axes = figure.add_subplot()
    axes.imshow(np.ma.masked_invalid(matrix), cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            color = "white" if abs(value) > 0.6 else DARK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=color)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    return figure
