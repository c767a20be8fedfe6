"""The picture of a decision: what every rating adds to the difference of the two best answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from useful_code.report_figures import BLUE, GREY, VERMILION, finish, new_figure


def decision_picture(names: Sequence[str], found: dict[str, Any], num_ratings: int) -> Any:
    """A figure with a bar per rating, the weightiest on top; `found` is what `explain` returns."""
    best, second = np.argsort(-np.asarray(found["scores"]), kind="stable")[:2]
    shares = found["coefficients"] * (found["rewards"][best] - found["rewards"][second])  # (K,)
    order = np.argsort(-np.abs(shares), kind="stable")[:num_ratings]
    figure = new_figure(width=7.0, height=1.4 + 0.32 * len(order))
    axes = figure.add_subplot()
    colours = [BLUE if shares[k] > 0 else VERMILION for k in order]
    axes.barh(range(len(order)), shares[order], color=colours)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(order)), [names[k] for k in order], fontsize=9)
    axes.invert_yaxis()
    title = f"answer {best + 1} over answer {second + 1} by {shares.sum():.4f}"
    finish(axes, title, "adds to the difference of the scores", "")
    return figure
