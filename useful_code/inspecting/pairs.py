"""What to see of chosen/rejected pairs."""

from math import nan
from typing import Any, NamedTuple

import numpy as np

from useful_code.chat_pairs import is_tie, preferred_first, prompt_of
from useful_code.inspecting.findings import Finding, length_table, percent, share_with_interval
from useful_code.inspecting.pictures import Panel, Share, histograms, rows_per_prompt, share_lines
from useful_code.inspecting.seen import Measured, Seen
from useful_code.inspecting.texts import TRAITS, traits_of
from useful_code.metrics import wilson_interval
from useful_code.report import Picture, Table

SURE_BY = 0.1  # a trait is reported where even the interval's near end is this far from one half
COMMON = 0.05  # and where at least this share of the pairs differ in it
MOST_SUBSETS = 30
SHORT = 5  # characters
LONGER = next(iter(TRAITS))  # known of every decided pair, as all traits are
MANY_SHORT = 0.01


class TraitShare(NamedTuple):
    """Of the decided pairs that differ in a trait: in how many the preferred answer has more of it."""

    name: str
    differing: int
    preferred_has_more: int

    @property
    def share(self) -> float:
        return self.preferred_has_more / self.differing if self.differing else nan

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.preferred_has_more, self.differing) if self.differing else (0.0, 1.0)


def measure(row: dict[str, Any]) -> Measured:
    """The numbers of a checked pair. Traits compare the preferred answer with the other: +1, 0 or -1; NaN for a tie."""
    prompt = prompt_of(row)
    chosen, rejected = row["chosen"][-1]["content"], row["rejected"][-1]["content"]
    scored = "chosen_score" in row and "rejected_score" in row
    numbers = {
        "prompt": sum(len(message["content"]) for message in prompt),
        "chosen": len(chosen),
        "rejected": len(rejected),
        "messages": len(row["chosen"]),
        "system": float(prompt[0]["role"] == "system"),
        "tie": float(is_tie(row)),
        "gap": row["chosen_score"] - row["rejected_score"] if scored else nan,
        "margin": row.get("margin", nan),
        "label": row.get("label", nan),
    }
    if not numbers["tie"]:
        preferred = preferred_first(row)
        sides = (traits_of(preferred[side][-1]["content"]) for side in ("chosen", "rejected"))
        numbers |= {name: (a > b) - (a < b) for name, a, b in zip(TRAITS, *sides, strict=True)}
    return Measured(prompt, (chosen, rejected), numbers)


def trait_shares(seen: Seen) -> list[TraitShare]:
    shares = []
    for name in TRAITS:
        signs = seen.known(name)
        shares.append(TraitShare(name, int((signs != 0).sum()), int((signs > 0).sum())))
    return shares


def headline(seen: Seen) -> dict[str, str]:
    longer = trait_shares(seen)[0]
    return {
        "pairs": f"{seen.rows:,}",
        "different prompts": f"{len(seen.rows_per_prompt()):,}",
        "the longer answer is the preferred one": percent(longer.preferred_has_more, longer.differing),
        "ties": percent(seen.known("tie").sum(), seen.rows),
    }


def findings(seen: Seen) -> list[Finding]:
    found = []
    wrong_way = int((seen.known("gap") < 0).sum())
    if wrong_way:
        found.append(
            Finding(f"In {wrong_way:,} pairs the rejected answer has the higher score: columns may be swapped.")
        )
    turned = int((seen.known("label") < 0.5).sum())
    if turned:
        found.append(
            Finding(f"{turned:,} pairs have a label below 0.5: `rejected` is preferred there; recipes turn them.")
        )
    decided = len(seen.known(LONGER))
    for trait in sorted(trait_shares(seen), key=lambda each: -abs(each.share - 0.5) if each.differing else 0):
        low, high = trait.interval
        if trait.differing >= COMMON * decided and (low > 0.5 + SURE_BY or high < 0.5 - SURE_BY):
            which = "preferred" if trait.share > 0.5 else "rejected"
            share = 100 * max(trait.share, 1 - trait.share)
            found.append(
                Finding(
                    f"The answer that {trait.name} is the {which} one in {share:.0f} % of the pairs that differ in it "
                    f"({percent(trait.differing, decided)} of all): a model can get these right without reading."
                )
            )
    short = int((seen.column("chosen") < SHORT).sum())
    if short >= MANY_SHORT * seen.rows:
        found.append(Finding(f"{percent(short, seen.rows)} of the chosen answers have fewer than {SHORT} characters."))
    return found


def tables(seen: Seen) -> list[Table]:
    decided = len(seen.known(LONGER))
    traits = [
        (trait.name, percent(trait.differing, decided), share_with_interval(trait.preferred_has_more, trait.differing))
        for trait in trait_shares(seen)
    ]
    lengths = [(name, seen.column(name)) for name in ("prompt", "chosen", "rejected")]
    facts = [
        ("with a system message", percent(seen.known("system").sum(), seen.rows)),
        ("with more than one turn", percent((seen.column("messages") - seen.column("system") > 2).sum(), seen.rows)),
        ("with two scores", percent(len(seen.known("gap")), seen.rows)),
        ("with a margin", percent(len(seen.known("margin")), seen.rows)),
        ("with a label", percent(len(seen.known("label")), seen.rows)),
    ]
    return [
        length_table(lengths),
        Table(
            "The answer that ... is the preferred one, among the pairs that differ in it (95 % interval)",
            ("trait", "pairs that differ", "preferred has more"),
            traits,
        ),
        Table("Pairs", ("", "share"), facts),
        *_subsets(seen),
    ]


def _subsets(seen: Seen) -> list[Table]:
    if len(seen.subsets) < 2:
        return []
    subset_of, longer = np.asarray(seen.subset_of), seen.column(LONGER)
    numbers = {name: number for number, name in enumerate(seen.subsets)}
    rows = []
    for name, number in seen.subsets.most_common(MOST_SUBSETS):
        here = subset_of == numbers[name]
        signs = longer[here & ~np.isnan(longer)]
        means = [f"{seen.column(part)[here].mean():,.0f}" for part in ("prompt", "chosen", "rejected")]
        longer_share = share_with_interval(int((signs > 0).sum()), int((signs != 0).sum()))
        rows.append((name, f"{number:,}", *means, longer_share))
    more = f" (the {MOST_SUBSETS} largest of {len(seen.subsets)})" if len(seen.subsets) > MOST_SUBSETS else ""
    head = ("subset", "pairs", "prompt", "chosen", "rejected", "longer is preferred")
    return [Table(f"Subsets{more}, mean lengths in characters", head, rows)]


def pictures(seen: Seen) -> list[Picture]:
    lengths = {name: np.maximum(1, seen.column(name)) for name in ("prompt", "chosen", "rejected")}
    panels = [
        Panel("Lengths", "characters", lengths, log=True),
        rows_per_prompt(seen),
    ]
    for name, title in (("gap", "Score of chosen minus rejected"), ("margin", "Margin"), ("label", "Label")):
        if len(seen.known(name)):
            panels.append(Panel(title, name, {"": seen.known(name)}))
    decided = max(1, len(seen.known(LONGER)))
    shares = [
        Share(trait.name, trait.share, *trait.interval, f"{100 * trait.differing / decided:.0f} % of pairs differ")
        for trait in trait_shares(seen)
        if trait.differing
    ]
    return [
        Picture("distributions", histograms(panels), "How long, how often, how far apart."),
        Picture(
            "traits",
            share_lines(shares, "the answer that has more is the preferred one (% of the pairs that differ)"),
            "What a model could learn without reading: at 50 % a trait says nothing; red where the interval leaves it.",
        ),
    ]
