"""What make_rollouts.py and sample_solutions.py say before and after."""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rollout_labels import most_prefixes
from rollout_store import Sampler

from useful_code.read_rows import RowCounts
from useful_code.run_info import git_commit

STEPS_ASSUMED = 6  # per solution, for the estimate alone; only sampling tells


@dataclass
class Made:
    """What became of solutions and completions."""

    solutions: int = 0  # written
    solutions_right: int = 0
    sampled: int = 0
    repeated: int = 0  # equal to an earlier solution of the problem; not written again
    steps: int = 0
    steps_unknown: int = 0  # no completion: requests failed or the prefix was too long
    completions: int = 0  # those that count; equal prefixes share theirs
    completions_right: int = 0


def estimate(rows: Sequence[tuple[Any, Any]], arguments: argparse.Namespace, num_stored: int) -> str:
    """What the run will ask for, before it does."""
    each = arguments.num_completions
    if arguments.solutions:
        most = each * sum(most_prefixes(len(solution.steps), arguments.labels) for _, solution in rows)
        text = f"{len(rows):,} solutions: at most {most:,} completions"
    else:
        solutions = len(rows) * arguments.num_solutions
        number = solutions * each * most_prefixes(STEPS_ASSUMED, arguments.labels)
        text = f"{len(rows):,} problems: {solutions:,} solutions, and about {number:,} completions if they have "
        text += f"{STEPS_ASSUMED} steps each"
    return f"{text}, of up to {arguments.max_new_tokens:,} tokens; {num_stored:,} are stored already"


def summary(made: Made, sampler: Sampler) -> str:
    """Lines for a person."""
    lines = []
    if made.sampled:
        lines.append(f"solutions: {made.sampled:,} sampled, {made.repeated:,} of them repetitions")
    right = made.solutions_right / made.solutions
    lines.append(f"step rows: {made.solutions:,} with {made.steps:,} steps, {right:.1%} with the right answer")
    share = f"{made.completions_right / made.completions:.1%} right" if made.completions else "none needed"
    lines.append(f"completions: {made.completions:,}, {share}; {made.steps_unknown:,} steps without a label")
    return "\n".join([*lines, *cost(sampler)])


def cost(sampler: Sampler) -> list[str]:
    """What was asked, what it took and what failed."""
    asked = sampler.asked
    text = f"cost: {asked.new:,} new texts ({asked.cut_off:,} cut off), {asked.stored_before:,} paid before or shared; "
    text += f"{asked.prompt_tokens:,} tokens read, {asked.new_tokens:,} written; "
    text += f"{asked.failed:,} requests failed, {asked.too_long:,} texts not asked for, as they would be too long"
    lines = [text]
    if asked.failed:
        lines.append(f"the first failure: {asked.first_error}. The same command asks for these again")
    if sampler.store.num_broken:
        lines.append(f"{sampler.store.num_broken:,} lines of {sampler.store.path} could not be read")
    return lines


def not_used(refused: Counter[str], refused_path: Path) -> list[str]:
    """A line on samples that were refused, if there are any."""
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in refused.most_common())
    return [f"sampled and not used: {reasons}; they are in {refused_path}"] if refused else []


def sampling_card(sampler: Sampler, instruction: str, counts: RowCounts, refused: Counter[str]) -> dict[str, Any]:
    """Where texts come from, ready for JSON."""
    return {
        "generator": sampler.generator.name,
        "identity": sampler.generator.identity,
        "sampling": sampler.sampling._asdict(),
        "instruction": instruction,
        "source": counts.source,
        "rows_read": counts.read,
        "refused": dict(counts.refused + refused),
        "asked": asdict(sampler.asked),
        "commit": git_commit(),
    }
