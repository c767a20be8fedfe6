"""What every kind of row is searched for; each finding is a sentence with its numbers. The bounds stand here.

A finding is a reason to look, not a verdict: a data set may be right to prefer longer answers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from useful_code.inspecting.seen import Seen
from useful_code.inspecting.texts import TRACES
from useful_code.metrics import wilson_interval
from useful_code.read_rows import RowCounts
from useful_code.report import Table

MANY_REFUSED = 0.02  # share of the rows read
MANY_TRACES = 0.001  # share of the rows
MANY_REPEATED = 0.001
HEAVY_PROMPTS = 0.2  # share of the rows that the 1 % of prompts with the most rows may have


class Finding(NamedTuple):
    text: str
    trace: str = ""  # the trace whose examples stand below it


def common_findings(seen: Seen, counts: RowCounts) -> list[Finding]:
    """What can be wrong with rows of any kind, the gravest first."""
    found = []
    refused = counts.refused.total()
    if refused >= MANY_REFUSED * counts.read:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in counts.refused.most_common(3))
        found.append(Finding(f"{percent(refused, counts.read)} of the rows are refused ({reasons})."))
    repeated, turned = seen.duplicates()
    if turned:
        found.append(Finding(f"{turned:,} pairs stand in the data both ways round: one of the two labels is wrong."))
    if repeated >= MANY_REPEATED * seen.rows and repeated:
        share = percent(repeated, seen.rows)
        found.append(Finding(f"{rows_of(repeated)} ({share}) repeat the prompt and answers of an earlier one."))
    for name, number in seen.rows_with_trace.most_common():
        if number >= MANY_TRACES * seen.rows:
            where = f"{rows_of(number)} ({percent(number, seen.rows)})"
            found.append(Finding(f"{name} in {where}: {TRACES[name].meaning}.", name))
    heaviest = heaviest_share(seen)
    if heaviest >= HEAVY_PROMPTS:
        found.append(
            Finding(
                f"1 % of the prompts have {100 * heaviest:.0f} % of the rows. A split at random would put a prompt on "
                "both sides (the recipes split by prompt); --max_pairs_per_prompt of convert_dataset.py limits them."
            )
        )
    return found


def heaviest_share(seen: Seen) -> float:
    """Share of the rows that belong to the 1 % of prompts with the most rows; 0 below 100 prompts."""
    per_prompt = np.sort(seen.rows_per_prompt())[::-1]
    return float(per_prompt[: len(per_prompt) // 100].sum() / max(1, seen.rows))


def trace_table(seen: Seen) -> Table:
    rows = [
        (name, f"{seen.rows_with_trace[name]:,}", percent(seen.rows_with_trace[name], seen.rows), trace.meaning)
        for name, trace in TRACES.items()
    ]
    return Table("Traces of something gone wrong", ("found in a message", "rows", "share", "what it may mean"), rows)


def length_table(lengths: Sequence[tuple[str, np.ndarray]], caption: str = "Lengths in characters") -> Table:
    """Percentiles of lengths: [(what it is, numbers)]."""
    marks = (5, 50, 90, 99, 100)
    rows = []
    for name, values in lengths:
        at = [f"{np.percentile(values, mark, method='lower'):,.0f}" if len(values) else "-" for mark in marks]
        rows.append((name, f"{values.mean():,.1f}" if len(values) else "-", *at))
    return Table(caption, ("", "mean", "5 %", "median", "90 %", "99 %", "longest"), rows)


def share_with_interval(successes: int, trials: int) -> str:
    """'61.3 % (58.0-64.5)', or '-' of nothing."""
    if not trials:
        return "-"
    low, high = wilson_interval(successes, trials)
    return f"{100 * successes / trials:.1f} % ({100 * low:.1f}-{100 * high:.1f})"


def rows_of(number: int) -> str:
    return "1 row" if number == 1 else f"{number:,} rows"


def percent(part: float, whole: float) -> str:
    """A share as a person reads it: a small one is not shown as nothing.

    >>> percent(1, 3), percent(1, 200_000), percent(0, 5), percent(0, 0)
    ('33.3 %', '< 0.1 %', '0.0 %', '-')
    """
    if not whole:
        return "-"
    return "< 0.1 %" if 0 < part / whole < 0.0005 else f"{100 * part / whole:.1f} %"
