r"""Step labels by Monte-Carlo rollouts: from problems with a gold answer to step rows, for a PRM or an ORM.

    python math-rm/make_rollouts.py --generator_name_or_path models/my-generator \
        --input problems.jsonl --output steps.jsonl --num_solutions 15 --num_completions 8
    python math-rm/make_rollouts.py --endpoint http://localhost:8000/v1 --model my-generator ...      # vLLM, SGLang
    python math-rm/make_rollouts.py --solutions given.jsonl ...      # label these solutions, sample none

Input: `{"prompt" (or question, problem): text, "answer": gold}`; a whole gold solution will do ("... #### 18", or a
\boxed answer). Every problem gets solutions, every solution is split into steps, and from every step on completions are
sampled: a step is as good as they are (rollout_labels.py says how; METHODS 7.2). Output: step rows
(useful_code/step_rows.py) with `outcome` and `rollouts` ([right, total] per step, null where nothing was sampled).

Beside `steps.jsonl` it writes `steps.jsonl.completions.jsonl` (every completion as it arrives: the same command goes on
where it stopped and pays none twice), `steps_refused_rows.jsonl` and `steps_card.json`. One process; what runs
several GPUs is the server behind an endpoint. To adapt, edit first: useful_code/split_steps.py, `answer_of`.
"""

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rollout_generators import Question
from rollout_labels import KINDS, Prefix, Tally, rollout_labels
from rollout_options import add_sampling_arguments, check_sampling_arguments, open_sampler, open_store
from rollout_report import Made, estimate, not_used, sampling_card, summary
from rollout_rows import (
    Problem,
    Solution,
    answer_of,
    asked,
    check_solution,
    problem_check,
    read_checked,
    solution_of,
    source_options,
    why_no_sample,
)
from rollout_store import Sampler

from useful_code.atomic_write import write_atomically
from useful_code.final_answers import same_answer
from useful_code.read_rows import RowCounts, checked_with_place, report_counts, write_refused
from useful_code.reasons import RowRefused
from useful_code.response_rows import check_output
from useful_code.row_readers import ReadRow
from useful_code.user_errors import UserError, exit_cleanly

# --- the method ---


def solve(problems: Sequence[Problem], sampler: Sampler, num_solutions: int, instruction: str) -> list[list]:
    """Per problem its sampled solutions, or a RowRefused in place of one that cannot be used."""
    questions = [Question(asked(problem, instruction), "") for problem in problems]
    solved = []
    for problem, replies in zip(problems, sampler.sample(questions, num_solutions), strict=True):
        found: list[Solution | RowRefused] = []
        for reply in replies:
            try:
                found.append(solution_of(problem, reply))
            except RowRefused as refused:
                found.append(refused)
        solved.append(found)
    return solved


def label(
    solutions: Sequence[Solution], sampler: Sampler, num_completions: int, kind: str, instruction: str = ""
) -> list[dict[str, Any]]:
    """Step rows of solutions, in order; completions are sampled for all of them together."""

    def count(prefixes: Sequence[Prefix]) -> list[Tally]:
        questions = [solutions[prefix.solution].question(prefix.num_steps, instruction) for prefix in prefixes]
        tallies = []
        for prefix, question, replies in zip(
            prefixes, questions, sampler.sample(questions, num_completions), strict=True
        ):
            gold = solutions[prefix.solution].problem.gold
            right = sum(same_answer(answer_of(question.prefix, reply), gold) for reply in replies)
            tallies.append(Tally(right, len(replies)))
        return tallies

    num_steps = [len(solution.steps) for solution in solutions]
    found = rollout_labels(num_steps, [solution.is_right for solution in solutions], count, kind)
    return [
        {
            **solution.problem.row,
            "completions": solution.steps,
            # The half-written step of a text that was cut off is neither right nor wrong.
            "labels": labelled.labels if solution.is_whole else [*labelled.labels[:-1], None],
            "outcome": solution.is_right,
            "rollouts": labelled.rollouts,
            **({} if solution.is_whole else {"finished": False}),
        }
        for solution, labelled in zip(solutions, found, strict=True)
    ]


# --- the run ---


def solutions_of_part(
    part: Sequence[tuple[ReadRow, Any]], sampler: Sampler, arguments: argparse.Namespace, made: Made
) -> Iterator[tuple[ReadRow, Solution | RowRefused]]:
    """The solutions of some rows: given ones, or sampled ones without repetitions."""
    if arguments.solutions:
        yield from part
        return
    solved = solve([problem for _, problem in part], sampler, arguments.num_solutions, arguments.instruction)
    for (place, _), found in zip(part, solved, strict=True):
        texts = set()
        if not found:
            yield place, why_no_sample(sampler)
        for solution in found:
            made.sampled += 1
            if isinstance(solution, Solution):
                if solution.text in texts:
                    made.repeated += 1
                    continue
                texts.add(solution.text)
            yield place, solution


def read_input(arguments: argparse.Namespace, refused_path: Path) -> tuple[list[tuple[ReadRow, Any]], RowCounts]:
    """Problems or given solutions with their places."""
    seen: set[str] = set()
    sources = filter(None, (arguments.input, arguments.solutions))
    options_of = source_options(sources, arguments.split, arguments.config_name)
    golds: dict[str, Problem] = {}
    if arguments.solutions and arguments.input:
        counts, options = RowCounts(arguments.input), options_of[arguments.input]
        with closing(checked_with_place(arguments.input, counts, problem_check(seen), **options)) as rows:
            golds = {checked["problem"].row["prompt"]: checked["problem"] for _, checked in rows}

    def check(row: Any) -> dict[str, Any]:
        if not isinstance(row, dict):
            raise RowRefused("not_an_object")
        return {"problem": check_solution(row, golds, arguments.step_separator)}

    source, of_row = (arguments.solutions, check) if arguments.solutions else (arguments.input, problem_check(seen))
    return read_checked(source, of_row, refused_path, arguments.limit, options_of[source])


def run(
    rows: Sequence[tuple[ReadRow, Any]],
    sampler: Sampler,
    arguments: argparse.Namespace,
    output: Path,
    refused_path: Path,
) -> tuple[Made, Counter[str]]:
    """Label everything, part by part, and write it; what was sampled and cannot be used joins the refused rows."""
    made, refused = Made(), Counter[str]()
    partial = output.with_name(f"{output.name}.partial")
    with (
        open(partial, "w", encoding="utf-8", errors="backslashreplace") as file,
        open(refused_path, "a", encoding="utf-8", errors="backslashreplace") as refused_file,
    ):
        for start in range(0, len(rows), arguments.rows_per_part):
            solutions = []
            for place, solution in solutions_of_part(
                rows[start : start + arguments.rows_per_part], sampler, arguments, made
            ):
                if isinstance(solution, RowRefused):
                    refused[solution.reason] += 1
                    write_refused(refused_file, place, solution)
                else:
                    solutions.append(solution)
            for row in label(solutions, sampler, arguments.num_completions, arguments.labels, arguments.instruction):
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                made.solutions += 1
                made.solutions_right += row["outcome"]
                made.steps += len(row["labels"])
                made.steps_unknown += row["labels"].count(None)
                tallies = [tally for tally in row["rollouts"] if tally is not None]
                made.completions += sum(tally.total for tally in tallies)
                made.completions_right += sum(tally.right for tally in tallies)
    if not made.solutions:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in refused.items())
        raise UserError(f"no solution can be used ({reasons}); see {refused_path}")
    os.replace(partial, output)
    return made, refused


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input", default=None, help="Problems with gold answers: file, folder or hub data set.")
    add("--solutions", default=None, help="Step rows to label; gold in `answer`, or in --input by the prompt.")
    add(
        "--step_separator", default="\n", help=r"Between the steps of --solutions; \n and \t may be typed. Default: \n."
    )
    add("--labels", choices=KINDS, default="hard", help="Default: hard.")
    add("--num_completions", type=int, default=8, help="Completions per step. Default: 8 (Math-Shepherd).")
    add_sampling_arguments(parser, "15 (Math-Shepherd)")
    arguments = parser.parse_args()
    arguments.step_separator = arguments.step_separator.replace(r"\n", "\n").replace(r"\t", "\t")
    if not (arguments.input or arguments.solutions):
        raise UserError("give --input (problems to solve) or --solutions (step rows to label)")
    most = max(arguments.num_completions, 1 if arguments.solutions else arguments.num_solutions)
    check_sampling_arguments(arguments, most, ("num_completions",))
    return arguments


def main() -> None:
    started_at = time.time()
    arguments = parse_arguments()
    for source in filter(None, (arguments.input, arguments.solutions)):
        output, refused_path = check_output(arguments.output, source)
    card_path = output.with_name(f"{output.stem}_card.json")
    with closing(open_store(output)) as store:
        rows, counts = read_input(arguments, refused_path)
        with closing(open_sampler(arguments, store)) as sampler:
            card_path.unlink(missing_ok=True)  # it would tell of other rows
            print(report_counts(counts))
            print(estimate(rows, arguments, store.num_stored), flush=True)
            made, refused = run(rows, sampler, arguments, output, refused_path)
    card = {
        **sampling_card(sampler, arguments.instruction, counts, refused),
        "labels": arguments.labels,
        "num_solutions": None if arguments.solutions else arguments.num_solutions,
        "num_completions": arguments.num_completions,
        "made": asdict(made),
        "minutes": round((time.time() - started_at) / 60, 3),
    }
    write_atomically(card_path, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    print(summary(made, sampler))
    for line in not_used(refused, refused_path):
        print(line)
    print(f"written to {output}")


if __name__ == "__main__":
    exit_cleanly(main)
