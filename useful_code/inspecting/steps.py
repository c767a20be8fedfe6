"""What to see of rows with step labels."""

from typing import Any

import numpy as np

from useful_code.inspecting.findings import Finding, length_table, percent, share_with_interval
from useful_code.inspecting.pictures import Panel, histograms, rows_per_prompt
from useful_code.inspecting.seen import Measured, Seen
from useful_code.report import Picture, Table

RIGHT = 0.5  # a label from here on counts as a right step, as in `step_evaluation` and the PRM recipes
SHORT_SOLUTIONS = 0.05


def measure(row: dict[str, Any]) -> Measured:
    """The numbers of a checked step row; `first_wrong` is the number of the first step below `RIGHT`, from 1."""
    labels = row["labels"]
    known = [label for label in labels if label is not None]
    wrong = [number for number, label in enumerate(labels, start=1) if label is not None and label < RIGHT]
    outcome = row.get("outcome")
    numbers: dict[str, float] = {
        "prompt": len(row["prompt"]),
        "solution": sum(len(step) for step in row["completions"]),
        "steps": len(labels),
        "labelled": len(known),
        "right": len(known) - len(wrong),
        "soft": sum(label not in (0.0, 1.0) for label in known),
    }
    if wrong:
        numbers["first_wrong"] = wrong[0]
    if outcome is not None:
        numbers["outcome"] = outcome
    if len(known) == len(labels):  # only then is it known whether all steps are right
        numbers["all_right"] = not wrong
        numbers["last_label"] = labels[-1]
    solution = "\n".join(row["completions"])
    return Measured([{"role": "user", "content": row["prompt"]}], (solution,), numbers)


def headline(seen: Seen) -> dict[str, str]:
    labelled = seen.column("labelled").sum(dtype=np.float64)
    return {
        "solutions": f"{seen.rows:,}",
        "different prompts": f"{len(seen.rows_per_prompt()):,}",
        "labelled steps": f"{labelled:,.0f}",
        "right steps": percent(seen.column("right").sum(dtype=np.float64), labelled),
    }


def findings(seen: Seen) -> list[Finding]:
    found = []
    labelled, right = (seen.column(name).sum(dtype=np.float64) for name in ("labelled", "right"))
    if labelled and right in (0, labelled):
        which = "right" if right else "wrong"
        found.append(Finding(f"All {labelled:,.0f} labelled steps are {which}: nothing to tell apart."))
    all_right, outcome = seen.column("all_right"), seen.column("outcome")
    against = int(((all_right == 1) & (outcome == 0)).sum())
    if against:
        found.append(Finding(f"{against:,} solutions have only right steps, and yet a wrong answer."))
    missed = int(((all_right == 0) & (outcome == 1)).sum())
    if missed:
        found.append(Finding(f"{missed:,} solutions have a wrong step, and yet a right answer."))
    single = int((seen.column("steps") == 1).sum())
    if single >= SHORT_SOLUTIONS * seen.rows:
        found.append(
            Finding(f"{percent(single, seen.rows)} of the solutions are one step: they may not have been cut.")
        )
    return found


def tables(seen: Seen) -> list[Table]:
    steps, labelled = (seen.column(name).sum(dtype=np.float64) for name in ("steps", "labelled"))
    outcome, all_right = seen.known("outcome"), seen.known("all_right")
    facts = [
        ("steps per solution (mean)", f"{steps / seen.rows:.1f}"),
        ("steps with a label", percent(labelled, steps)),
        ("labels between 0 and 1", percent(seen.column("soft").sum(dtype=np.float64), labelled)),
        ("solutions with a known outcome", percent(len(outcome), seen.rows)),
        ("of these, right", share_with_interval(int(outcome.sum()), len(outcome))),
        ("solutions with every step labelled", percent(len(all_right), seen.rows)),
        ("of these, without a wrong step", share_with_interval(int(all_right.sum()), len(all_right))),
    ]
    return [
        length_table([(name, seen.column(name)) for name in ("prompt", "solution")]),
        length_table([("solution", seen.column("steps"))], "Lengths in steps"),
        Table("Labels", ("", ""), facts),
    ]


def pictures(seen: Seen) -> list[Picture]:
    lengths = {name: np.maximum(1, seen.column(name)) for name in ("prompt", "solution")}
    labelled = seen.column("labelled")
    share = seen.column("right")[labelled > 0] / labelled[labelled > 0]
    panels = [
        Panel("Steps of a solution", "steps", {"": seen.column("steps")}, ylabel="solutions (%)"),
        Panel("Right among its labelled steps", "share", {"": share}, ylabel="solutions (%)"),
        Panel(
            "First wrong step", "number of the step", {"": seen.known("first_wrong")}, ylabel="of those with one (%)"
        ),
        Panel("Lengths", "characters", lengths, log=True),
        rows_per_prompt(seen),
    ]
    return [Picture("distributions", histograms(panels), "How many steps, where they go wrong, how long.")]
