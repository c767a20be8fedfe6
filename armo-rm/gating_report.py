"""What stage 2 reached, for a person: accuracy, penalties, and what counts in which group of prompts.

Shapes: N held-out pairs, K objectives, G groups.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from small_samples import few_prompts_warnings

from useful_code.report import Picture, Table, table_text, write_report
from useful_code.report_figures import BLUE, GREY, VERMILION, finish, new_figure, training_curves

MOST_GROUPS = 30


def write_gating_report(
    output: Path,
    names: Sequence[str],
    description: Mapping[str, Any],  # of armorm.json
    coefficients: np.ndarray,  # (N, K) what a rating counts: gate and penalties together
    rows: Sequence[Mapping[str, Any]],  # N
    log: Sequence[Mapping[str, float]],
) -> None:
    """Write report.html with its pictures, and print the tables."""
    tables = [accuracy_table(description["held_out"])]
    pictures = [
        Picture("curves", training_curves(log), "Training of the gate, batch by batch."),
        Picture(
            "coefficients",
            coefficient_picture(names, *by_group(coefficients, rows)),
            "What a rating counts, mean over the held-out prompts of a group; verbosity counts against.",
        ),
    ]
    warnings = few_prompts_warnings("held-out accuracy", [row["prompt"] for row in rows])
    if not description["scale"]:
        warnings.append("the scale of the gate ended at 0: the ratings speak against the labels, and all scores are 0")
    if found := description["penalties"]:
        tables.append(penalty_table(names, found))
        pictures.append(
            Picture("penalties", penalty_picture(names, found), "How ratings follow verbosity, before and after.")
        )
        warnings += [
            f"{name}: no penalty of the grid is enough; with {one['size']:g}, Spearman {_shown(one['after'])} is left"
            for name, one in zip(names, found, strict=True)
            if not one["is_found"]
        ]
    numbers = description["held_out"]["gate"]
    write_report(
        output,
        title="ArmoRM, stage 2: gate",
        lead=f"{len(names)} ratings, weighed by the prompt.",
        headline={
            "held-out accuracy": _with_interval(numbers),
            "longer answer wins": f"{numbers['length']['longer_wins_accuracy']:.3f}",
        },
        figures=pictures,
        tables=tables,
        notes=warnings,
    )
    print("\n".join([*(f"{table_text(table)}\n" for table in tables), *warnings, f"report: {output / 'report.html'}"]))


def by_group(values: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], np.ndarray]:
    """Names of the groups of prompts (subset, else source), the largest first, and the mean of each (G, K)."""
    groups = np.array([str(row.get("subset") or row.get("source") or "all") for row in rows])
    found, counts = np.unique(groups, return_counts=True)
    largest = found[np.argsort(-counts, kind="stable")][:MOST_GROUPS]
    return [str(group) for group in largest], np.stack([values[groups == group].mean(0) for group in largest])


def accuracy_table(held_out: Mapping[str, Mapping[str, Any]]) -> Table:
    return Table(
        "Held-out pairs. Length: tokens of the answer.",
        ["weights", "pairs", "accuracy", "chosen longer", "chosen shorter", "Spearman with length"],
        [
            [
                name,
                f"{numbers['pairs']:,}",
                _with_interval(numbers),
                *(_shown(numbers["length"][side]["accuracy"], 3) for side in ("chosen_longer", "chosen_shorter")),
                _shown(numbers["length"]["spearman"]),
            ]
            for name, numbers in held_out.items()
        ],
    )


def penalty_table(names: Sequence[str], found: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        "Spearman's correlation with verbosity on the reference set.",
        ["objective", "before", "penalty", "after"],
        [
            [
                name,
                _shown(one["before"]),
                f"{one['size']:g}" + ("" if one["is_found"] else " (not enough)"),
                _shown(one["after"]),
            ]
            for name, one in zip(names, found, strict=True)
        ],
    )


def coefficient_picture(names: Sequence[str], groups: Sequence[str], means: np.ndarray) -> Any:
    """Heat map (G, K): blue counts for an answer, vermilion against it."""
    figure = new_figure(width=2.5 + 0.55 * len(names), height=2.2 + 0.32 * len(groups))
    axes = figure.add_subplot()
    limit = float(np.abs(means).max()) or 1.0
    image = axes.imshow(means, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(groups)), groups, fontsize=8)
    figure.colorbar(image, ax=axes)
    finish(axes, "Mean coefficient", "", "")
    axes.grid(visible=False)
    return figure


def penalty_picture(names: Sequence[str], found: Sequence[Mapping[str, Any]]) -> Any:
    """Two dots per objective: Spearman's correlation with verbosity before and after."""
    figure = new_figure(width=6.0, height=1.6 + 0.3 * len(names))
    axes = figure.add_subplot()
    places = np.arange(len(names))
    for key, colour, label in (("before", VERMILION, "before"), ("after", BLUE, "after")):
        values = [np.nan if one[key] is None else one[key] for one in found]
        axes.plot(values, places, "o", color=colour, label=label)
    axes.axvline(0, color=GREY, linewidth=1, linestyle=":")
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.legend()
    finish(axes, "Spearman with verbosity", "correlation", "")
    return figure


def _with_interval(numbers: Mapping[str, Any]) -> str:
    low, high = numbers["interval"]
    return f"{numbers['accuracy']:.3f} ({low:.3f}-{high:.3f})"


def _shown(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
