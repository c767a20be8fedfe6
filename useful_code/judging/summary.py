"""What a person must know of many verdicts: how often they are right, and how often they hang on order or length."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from useful_code.judging.items import Item
from useful_code.metrics import wilson_interval


def summarize(items: Sequence[Item], judged: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares over the items, ready for JSON; None where there is nothing to divide by.

    `accuracy`: over items whose best response is known; a tie is shared by those that tie, an invalid verdict by all
    (for a pair 0.5 each). `consistency`: items whose orders all say the same. `first_position_share`: of the single
    orders that chose a response, those that chose the one shown first; without bias it is one by the number shown.
    `longer_wins_share`: of the decided items with one longest response (in characters), those that it won.
    """
    credits = [credit(item, verdict) for item, verdict in zip(items, judged, strict=True)]
    known = [value for value in credits if value is not None]
    several = [verdict for verdict in judged if len(verdict["orders"]) > 1 and "rating" not in verdict["orders"][0]]
    valid = [verdict["orders"] for verdict in several if verdict["status"] != "invalid"]
    single = [order for verdict in judged for order in verdict["orders"] if order.get("top") is not None]
    longest_won = [
        verdict["winners"][0] == max(range(len(item.responses)), key=lambda i: len(item.responses[i]))
        for item, verdict in zip(items, judged, strict=True)
        if verdict["status"] == "decided" and _one_is_longest(item)
    ]
    statuses = Counter(verdict["status"] for verdict in judged)
    problems = Counter(
        problem for verdict in judged for order in verdict["orders"] for problem in order.get("problems", ())
    )
    return {
        "items": len(judged),
        "decided": statuses["decided"],
        "ties": statuses["tie"],
        "invalid": statuses["invalid"],
        "invalid_share": _share(statuses["invalid"], len(judged)),
        "invalid_replies": dict(problems),
        "items_with_truth": len(known),
        "accuracy": _share(sum(known), len(known)),
        "accuracy_interval": list(wilson_interval(sum(known), len(known))) if known else None,
        "consistency": _share(sum(len({_chosen(order) for order in orders}) == 1 for orders in valid), len(valid)),
        "first_position_share": _share(sum(order["top"] == 0 for order in single), len(single)),
        "longer_wins_share": _share(sum(longest_won), len(longest_won)),
        "mean_label_mass": _label_mass(judged),
    }


def credit(item: Item, verdict: dict[str, Any]) -> float | None:
    """What a verdict counts where the best response is known: 1, 0, or its share of a tie.

    >>> item = Item([], ["a", "b", "c", "d"], best=2)
    >>> [credit(item, {"winners": winners}) for winners in ([2], [1], [0, 2], [])]
    [1.0, 0.0, 0.5, 0.25]
    """
    if item.best is None:
        return None
    winners = verdict["winners"] or range(len(item.responses))
    return 1 / len(winners) if item.best in winners else 0.0


def format_summary(summary: dict[str, Any]) -> str:
    """One line per number, for a person."""
    lines = [
        f"judged {summary['items']:,} items: {summary['decided']:,} decided, {summary['ties']:,} ties, "
        f"{summary['invalid']:,} invalid ({100 * (summary['invalid_share'] or 0):.1f} %)"
    ]
    if summary["invalid_replies"]:
        reasons = ", ".join(f"{number:,} {problem}" for problem, number in summary["invalid_replies"].items())
        lines.append(f"replies without a verdict after the second try: {reasons}")
    if summary["accuracy"] is not None:
        low, high = summary["accuracy_interval"]
        lines.append(
            f"accuracy {summary['accuracy']:.3f} ({low:.3f} to {high:.3f}) on {summary['items_with_truth']:,} items "
            "whose best response is known; ties and invalid verdicts are shared"
        )
    for name, text in (
        ("consistency", "all orders say the same"),
        ("first_position_share", "of verdicts for one response, those for the one shown first"),
        ("longer_wins_share", "of decided items, those won by the longest response"),
        ("mean_label_mass", "probability that the judge gives to any of the labels"),
    ):
        if summary[name] is not None:
            lines.append(f"{name} {summary[name]:.3f} ({text})")
    return "\n".join(lines)


def _chosen(order: dict[str, Any]) -> int | None:
    """The response that an order chose, by its place in the row; None for a tie."""
    return None if order["top"] is None else order["order"][order["top"]]


def _one_is_longest(item: Item) -> bool:
    lengths = sorted(map(len, item.responses))
    return len(lengths) > 1 and lengths[-1] > lengths[-2]


def _label_mass(judged: Sequence[dict[str, Any]]) -> float | None:
    masses = [
        sum(map(math.exp, order["label_log_probabilities"]))
        for verdict in judged
        for order in verdict["orders"]
        if order.get("label_log_probabilities")
    ]
    return _share(sum(masses), len(masses))


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
