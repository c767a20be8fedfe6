"""What to see of rated rows."""

from functools import lru_cache
from typing import Any

import numpy as np

from useful_code.inspecting.findings import Finding, length_table, percent
from useful_code.inspecting.pictures import Panel, correlations, histograms
from useful_code.inspecting.seen import Measured, Seen
from useful_code.metrics import spearman_correlation
from useful_code.report import Picture, Table

RATING = "rating: "  # before an objective's name among the columns
MOST_PANELS = 24
SAME = 0.95  # rank correlation from which two objectives say nearly the same
FOLLOWS_LENGTH = 0.5
FEW = 100  # rows rated on both; below, no correlation is told


def measure(row: dict[str, Any]) -> Measured:
    """The numbers of a checked rated row."""
    *prompt, response = row["messages"]
    numbers: dict[str, float] = {
        "prompt": sum(len(message["content"]) for message in prompt),
        "response": len(response["content"]),
        "ratings": len(row["ratings"]),
    }
    numbers |= {RATING + name: value for name, value in row["ratings"].items()}
    return Measured(prompt, (response["content"],), numbers)


def objectives(seen: Seen) -> list[str]:
    return sorted(name.removeprefix(RATING) for name in seen.columns if name.startswith(RATING))


def correlation(seen: Seen, first: str, second: str) -> float:
    """Spearman's, over the rows that have both columns; NaN where there are fewer than `FEW`, or one is constant."""
    return _correlation(seen, *sorted((first, second)))


@lru_cache(maxsize=4096)  # the findings, the table and the picture ask for the same ones
def _correlation(seen: Seen, first: str, second: str) -> float:
    a, b = seen.column(first), seen.column(second)
    both = ~np.isnan(a) & ~np.isnan(b)
    return spearman_correlation(a[both], b[both]) if both.sum() >= FEW else float("nan")


def headline(seen: Seen) -> dict[str, str]:
    return {
        "rated answers": f"{seen.rows:,}",
        "different prompts": f"{len(seen.rows_per_prompt()):,}",
        "objectives": f"{len(objectives(seen)):,}",
        "ratings per answer": f"{seen.column('ratings').mean():.2f}",
    }


def findings(seen: Seen) -> list[Finding]:
    found = []
    names = objectives(seen)
    for name in names:
        values = seen.known(RATING + name)
        if len(np.unique(values)) == 1:
            found.append(Finding(f"{name} is {values[0]:g} in all of its {len(values):,} rows: nothing to learn."))
        rho = correlation(seen, RATING + name, "response")
        if abs(rho) >= FOLLOWS_LENGTH:
            found.append(Finding(f"{name} follows the length of the answer (rank correlation {rho:+.2f})."))
    for index, first in enumerate(names[:MOST_PANELS]):
        for second in names[index + 1 : MOST_PANELS]:
            rho = correlation(seen, RATING + first, RATING + second)
            if abs(rho) >= SAME:
                found.append(Finding(f"{first} and {second} say nearly the same (rank correlation {rho:+.2f})."))
    return found


def tables(seen: Seen) -> list[Table]:
    rows = []
    for name in objectives(seen):
        values = seen.known(RATING + name)
        rho = correlation(seen, RATING + name, "response")
        spread = f"{values.min():g} to {values.max():g}"
        moments = (f"{values.mean(dtype=np.float64):.3f}", f"{values.std(dtype=np.float64):.3f}")
        share = percent(len(values), seen.rows)
        rows.append((name, f"{len(values):,}", share, *moments, spread, "-" if np.isnan(rho) else f"{rho:+.2f}"))
    head = ("objective", "rows", "share", "mean", "standard deviation", "given", "with length")
    return [
        length_table([(name, seen.column(name)) for name in ("prompt", "response")]),
        Table("Objectives; the last column is the rank correlation with the answer's characters", head, rows),
    ]


def pictures(seen: Seen) -> list[Picture]:
    names = objectives(seen)[:MOST_PANELS]
    panels = [Panel(name, "rating", {"": seen.known(RATING + name)}) for name in names]
    shown = "" if len(objectives(seen)) == len(names) else f" The first {MOST_PANELS} of {len(objectives(seen))}."
    lengths = {name: np.maximum(1, seen.column(name)) for name in ("prompt", "response")}
    pictures = [
        Picture("ratings", histograms(panels), f"How every objective was rated.{shown}"),
        Picture("lengths", histograms([Panel("Lengths", "characters", lengths, log=True)]), "How long."),
    ]
    columns = [*(RATING + name for name in names), "response"]
    matrix = np.array([[correlation(seen, a, b) for b in columns] for a in columns])
    if np.isfinite(matrix[:-1]).any():
        labels = [*names, "characters"]
        caption = f"Rank correlation of objectives, and with length; white: fewer than {FEW} rows have both."
        pictures.append(Picture("correlations", correlations(labels, matrix), caption))
    return pictures
