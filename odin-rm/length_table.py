"""What the report says of every head and length: three correlations, and accuracy by which answer is longer.

Shapes: N held-out pairs, K heads, traits of K - 1 nuisances; chosen first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from useful_code import metrics
from useful_code.report import Table

SUM = "sum of all heads"
CURVES = {  # as in useful_code/report_figures.py: title, unit, value of a model that gives every answer the same reward
    "ranking_loss": ("Ranking loss", "nats per pair, sum of all heads", np.log(2)),
    "accuracy": ("Accuracy", "share of pairs right, quality head", 0.5),
    "quality_length_correlation": ("Quality head and length", "Pearson", 0.0),
    "length_head_correlation": ("Length head and length", "Pearson", 0.0),
}


def head_numbers(
    names: Sequence[str],  # of the heads, quality first
    rewards: np.ndarray,  # (N, 2, K)
    traits: np.ndarray,  # (N, 2, K - 1)
) -> dict[str, dict[str, Any]]:
    """Per head, and for the sum: `metrics.length_report` in tokens, `kendall`, `accuracy`, and `pearson_with` each
    nuisance. What is not defined is None."""
    rewards, traits = rewards.astype(float), traits.astype(float)
    lengths = traits[..., 0]  # (N, 2)
    scores = dict(zip(names, np.moveaxis(rewards, -1, 0), strict=True)) | {SUM: rewards.sum(-1)}
    found = {}
    for name, both in scores.items():  # (N, 2)
        margins, longer = both[:, 0] - both[:, 1], lengths[:, 0] - lengths[:, 1]  # (N,)
        found[name] = metrics.length_report(both.flatten(), lengths.flatten(), margins, longer) | {
            "accuracy": metrics.pair_accuracy(margins),
            "kendall": _number(kendalltau(both.flatten(), lengths.flatten()).statistic),
            "pearson_with": {
                nuisance: _number(metrics.pearson_correlation(both.flatten(), traits[..., place].flatten()))
                for place, nuisance in enumerate(names[1:])
            },
        }
    return found


def head_tables(numbers: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[Table]:
    """For a person; a second table where there are nuisances beside length."""
    order = [names[0], SUM, *names[1:]]
    of_length = Table(
        f"Held-out answers by head; {names[0]} is what is saved. Length: tokens of the last assistant turn.",
        ["head", "Pearson", "Kendall", "Spearman", "accuracy", "chosen longer", "chosen shorter"],
        [
            [
                name,
                *(_cell(numbers[name][key], 2) for key in ("pearson", "kendall", "spearman")),
                _cell(numbers[name]["accuracy"]),
                *(_cell(numbers[name][side]["accuracy"]) for side in ("chosen_longer", "chosen_shorter")),
            ]
            for name in order
        ],
    )
    if len(names) == 2:
        return [of_length]
    of_all = Table(
        "Pearson's correlation of every head with every nuisance.",
        ["head", *names[1:]],
        [[name, *(_cell(numbers[name]["pearson_with"][nuisance], 2) for nuisance in names[1:])] for name in order],
    )
    return [of_length, of_all]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _cell(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
