"""What make_rollouts.py says before and after."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rollout_labels import most_prefixes
from rollout_store import Sampler

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
    asked_for = sampler.asked
    lines = []
    if made.sampled:
        lines.append(f"solutions: {made.sampled:,} sampled, {made.repeated:,} of them repetitions")
    right = made.solutions_right / made.solutions
    lines.append(f"step rows: {made.solutions:,} with {made.steps:,} steps, {right:.1%} with the right answer")
    share = f"{made.completions_right / made.completions:.1%} right" if made.completions else "none needed"
    lines.append(f"completions: {made.completions:,}, {share}; {made.steps_unknown:,} steps without a label")
    cost = (
        f"cost: {asked_for.new:,} new texts ({asked_for.cut_off:,} cut off), {asked_for.stored_before:,} paid before "
    )
    cost += f"or shared; {asked_for.prompt_tokens:,} tokens read, {asked_for.new_tokens:,} written; "
    lines.append(
        cost
        + f"{asked_for.failed:,} requests failed, {asked_for.too_long:,} texts not asked for, as they would be too long"
    )
    if asked_for.failed:
        lines.append(f"the first failure: {asked_for.first_error}. The same command asks for these again")
    if sampler.store.num_broken:
        lines.append(f"{sampler.store.num_broken:,} lines of {sampler.store.path} could not be read")
    return "\n".join(lines)
