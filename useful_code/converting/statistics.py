"""What the data card says of the rows that stay, summed up in constant memory."""

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute

from useful_code.converting.schemas import LENGTHS

LONGEST = 1 << 18  # characters; longer texts count as this long in the percentiles, not in the mean
MOST_SUBSETS = 1000  # that are counted by name


class Statistics:
    """Sums over tables of kept rows, which still have the length columns of unfinished parts."""

    def __init__(self, kind: str):
        self.kind = kind
        self.rows = 0
        self.lengths = {name: np.zeros(LONGEST + 1, np.int64) for name in LENGTHS[kind]}
        self.sums = dict.fromkeys(LENGTHS[kind], 0)
        self.longest = dict.fromkeys(LENGTHS[kind], 0)
        self.subsets: Counter[str] = Counter()
        self.numbers: Counter[str] = Counter()
        self.totals: defaultdict[str, float] = defaultdict(float)

    def add(self, table: pyarrow.Table) -> None:
        self.rows += table.num_rows
        lengths = {name: table[f"_{name}"].to_numpy() for name in self.lengths}
        for name, values in lengths.items():
            self.lengths[name] += np.bincount(np.minimum(values, LONGEST), minlength=LONGEST + 1)
            self.sums[name] += int(values.sum(dtype=np.int64))
            self.longest[name] = max(self.longest[name], int(values.max(initial=0)))
        for entry in pyarrow.compute.value_counts(table["subset"]).to_pylist():
            if entry["values"] is not None:
                self._add_subset(entry["values"], entry["counts"])
        {"pairs": self._add_pairs, "ratings": self._add_ratings, "steps": self._add_steps}[self.kind](table, lengths)

    def merge(self, other: "Statistics") -> None:
        """Take up what another process summed."""
        self.rows += other.rows
        for name, counts in other.lengths.items():
            self.lengths[name] += counts
            self.sums[name] += other.sums[name]
            self.longest[name] = max(self.longest[name], other.longest[name])
        for subset, number in other.subsets.items():
            self._add_subset(subset, number)
        self.numbers.update(other.numbers)
        for name, total in other.totals.items():
            self.totals[name] += total

    def _add_subset(self, name: str, number: int) -> None:
        known = name in self.subsets or len(self.subsets) < MOST_SUBSETS
        self.subsets[name if known else "(others)"] += number

    def _add_pairs(self, table: pyarrow.Table, lengths: dict[str, np.ndarray]) -> None:
        tie = table["tie"].fill_null(False).to_numpy()
        self.numbers["ties"] += int(tie.sum())
        self.numbers["chosen_longer"] += int(((lengths["chosen"] > lengths["rejected"]) & ~tie).sum())
        self.numbers["equally_long"] += int(((lengths["chosen"] == lengths["rejected"]) & ~tie).sum())
        for name in ("chosen_score", "margin", "label"):
            self.numbers[name] += table.num_rows - table[name].null_count

    def _add_ratings(self, table: pyarrow.Table, lengths: dict[str, np.ndarray]) -> None:
        ratings = table["ratings"].combine_chunks()
        for index, field in enumerate(ratings.type):
            values = ratings.field(index)
            self.numbers[field.name] += len(values) - values.null_count
            self.totals[field.name] += pyarrow.compute.sum(values).as_py() or 0.0

    def _add_steps(self, table: pyarrow.Table, lengths: dict[str, np.ndarray]) -> None:
        labels = pyarrow.compute.list_flatten(table["labels"])
        self.numbers["steps"] += len(labels)
        self.numbers["labelled"] += len(labels) - labels.null_count
        self.totals["label"] += pyarrow.compute.sum(labels).as_py() or 0.0
        self.numbers["outcomes"] += table.num_rows - table["outcome"].null_count
        self.numbers["right"] += pyarrow.compute.sum(table["outcome"]).as_py() or 0

    def summary(self) -> dict[str, Any]:
        """Lengths per part in characters, and what matters of the kind of row."""
        characters = {}
        for name, counts in self.lengths.items():
            below = np.cumsum(counts)
            at = {percent: int(np.searchsorted(below, self.rows * percent / 100)) for percent in (5, 50, 95)}
            mean = round(self.sums[name] / self.rows, 1)
            characters[name] = {"mean": mean, "p5": at[5], "median": at[50], "p95": at[95], "max": self.longest[name]}
        summary: dict[str, Any] = {"characters": characters}
        if self.kind == "pairs":
            decided = self.rows - self.numbers["ties"]
            summary["ties"] = self.numbers["ties"]
            for name in ("chosen_longer", "equally_long"):
                summary[f"{name}_share"] = round(self.numbers[name] / decided, 4) if decided else None
            for name in ("chosen_score", "margin", "label"):
                summary[f"with_{name}"] = self.numbers[name]
        elif self.kind == "ratings":
            summary["ratings"] = {
                name: {"rows": count, "mean": round(self.totals[name] / count, 4)}
                for name, count in self.numbers.items()
                if count
            }
        else:
            summary["steps"] = self.numbers["steps"]
            summary["labelled_steps"] = self.numbers["labelled"]
            summary["mean_label"] = _share(self.totals["label"], self.numbers["labelled"])
            summary["with_outcome"] = self.numbers["outcomes"]
            summary["right_share"] = _share(self.numbers["right"], self.numbers["outcomes"])
        if self.subsets:
            summary["subsets"] = dict(sorted(self.subsets.items()))
        return summary


def _share(part: float, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
