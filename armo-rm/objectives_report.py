"""What stage 1 reached, for a person: a table, and a picture of every objective's predictions.

Shapes: N held-out rows, K objectives.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from useful_code.report import Picture, Table, table_text, write_report
from useful_code.report_figures import BLUE, GREY, finish, new_figure

MOST_POINTS = 2_000  # of a panel: more hide each other


def write_objectives_report(
    output: Path,
    numbers: Sequence[dict[str, Any]],  # of objectives.json
    warnings: Sequence[str],
    predictions: np.ndarray,  # (N, K) in [0, 1], roughly
    ratings: np.ndarray,  # (N, K) in [0, 1], nan where there is none
) -> None:
    """Write report.html with its picture, and print the table and the warnings."""
    table = Table(
        "Held-out prompts. Pearson with its 95 % interval, prompts resampled; R2: share of the variance predicted.",
        ["objective", "ratings", "alpha", "Pearson", "interval", "Spearman", "R2"],
        [
            [
                one["name"],
                f"{one['train_rows']:,} + {one['held_out_rows']:,}",
                f"{one['alpha']:g}",
                _shown(one["pearson"]),
                f"{_shown(one['low'])} to {_shown(one['high'])}",
                _shown(one["spearman"]),
                _shown(one["r2"]),
            ]
            for one in numbers
        ],
    )
    write_report(
        output,
        title="ArmoRM, stage 1: objectives",
        lead=f"{len(numbers)} ridge regressions on embeddings of a frozen model.",
        figures=[
            Picture("objectives", fit_picture(numbers, predictions, ratings), "Held-out ratings and their predictions.")
        ],
        tables=[table],
        notes=warnings,
    )
    print("\n".join([table_text(table), *warnings, f"report: {output / 'report.html'}"]))


def fit_picture(numbers: Sequence[dict[str, Any]], predictions: np.ndarray, ratings: np.ndarray) -> Any:
    """One panel per objective: predictions against ratings, which are spread a little so that points can be seen."""
    columns = min(4, len(numbers))
    rows = -(-len(numbers) // columns)
    figure = new_figure(width=3.2 * columns, height=2.9 * rows)
    rng = np.random.default_rng(0)
    for k, one in enumerate(numbers):
        axes = figure.add_subplot(rows, columns, k + 1)
        has = np.flatnonzero(~np.isnan(ratings[:, k]))
        has = rng.permutation(has)[:MOST_POINTS]
        spread = rng.uniform(-0.02, 0.02, len(has))
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
        axes.plot(ratings[has, k] + spread, predictions[has, k], ".", color=BLUE, markersize=2, alpha=0.4)
        finish(axes, f"{one['name']}  r = {_shown(one['pearson'])}", "rating", "predicted")
    return figure


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
