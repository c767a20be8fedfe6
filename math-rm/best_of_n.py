"""Best of N: choose among many solutions of a problem with a process or an outcome reward model, and see what it gains.

    python math-rm/best_of_n.py --reward_name_or_path runs/prm --dataset candidates.jsonl --output_dir runs/best-of-n
    accelerate launch --num_processes 8 math-rm/best_of_n.py ... --num_n 1024           # the same on eight GPUs

Input: problems with solutions that are marked right or wrong, or with a gold answer (useful_code/solution_rows.py; the
test sets of RLHFlow too). All steps of a solution are scored in one forward pass, the problem is computed once for all
its solutions, and an interrupted run goes on where it stopped.

Written: scores.jsonl (every row with the scores of every step), curves.json, and report.html with the accuracy of the
best of N = 1, 2, 4, ... solutions by min, product, mean and last (an outcome model has one score, which is the last),
of votes weighted by them, of the plain majority, and of the oracle; averages over all subsets in closed form (votes:
over --draws subsets), intervals over problems.
"""

import argparse
import json
import time
from typing import Any

from aggregation import AGGREGATIONS
from best_of_n_curves import Problem, best_of_n_curves, curves_figure, curves_json, curves_table, sizes_up_to
from solution_picture import Solution, solution_picture
from tqdm import tqdm

from useful_code.atomic_write import write_atomically
from useful_code.final_answers import answer_classes
from useful_code.processes import leave_together, start_processes
from useful_code.read_rows import load_checked, report_counts
from useful_code.reasons import RowRefused
from useful_code.report import Picture, table_text, write_report
from useful_code.response_rows import write_rows
from useful_code.resumable_scoring import remove_parts
from useful_code.run_info import write_run_info
from useful_code.scoring import add_length_argument, add_model_arguments
from useful_code.solution_rows import check_candidates
from useful_code.step_prompt import StepIds
from useful_code.step_scoring import (
    StepScorer,
    add_solution_arguments,
    load_solution_scorer,
    output_file,
    score_solutions,
)
from useful_code.user_errors import UserError, exit_cleanly


def check_problem(row: Any) -> dict[str, Any]:
    """A problem whose solutions are all known to be right or wrong, or RowRefused."""
    problem = check_candidates(row)
    unknown = [place for place, candidate in enumerate(problem["candidates"]) if candidate["correct"] is None]
    if unknown:
        raise RowRefused("not_labelled", f"candidates[{unknown[0]}] has no `correct`, and the row no `gold` answer")
    return problem


def read_candidates(
    scorer: StepScorer, problem: dict[str, Any], max_length: int | None
) -> tuple[list[StepIds], list[int], list[str]]:
    """Solutions that can be scored, their numbers, and why the others cannot; those keep the worst score, 0."""
    solutions, places, unread = [], [], []
    for place, candidate in enumerate(problem["candidates"]):
        try:
            if not candidate["steps"]:
                raise RowRefused("empty_content", "a solution without text")
            solutions.append(scorer.read(problem["prompt"], candidate["steps"], max_length))
            places.append(place)
        except RowRefused as refused:
            unread.append(str(refused))
    return solutions, places, unread


def curves_of(problems: list[dict[str, Any]], num_n: int | None, draws: int, reward_of: str = "steps"):
    """The curves of problems whose candidates have `step_scores`; an outcome model has one for the whole solution."""
    return best_of_n_curves(
        [
            Problem(
                [candidate["step_scores"] for candidate in problem["candidates"]],
                [candidate["correct"] for candidate in problem["candidates"]],
                answer_classes([candidate["answer"] for candidate in problem["candidates"]]),
            )
            for problem in tqdm(problems, desc="comparing answers", disable=len(problems) < 20)
        ],
        num_n,
        AGGREGATIONS if reward_of == "steps" else ("last",),
        draws=draws,
    )


def picture_of(problem: dict[str, Any]) -> Picture:
    """The highest- and the lowest-scored solution of a problem by mean, their steps coloured."""
    scored = [candidate for candidate in problem["candidates"] if candidate["step_scores"]]
    scored.sort(key=lambda candidate: sum(candidate["step_scores"]) / len(candidate["step_scores"]))
    shown = []
    for name, candidate in {"highest score": scored[-1], "lowest score": scored[0]}.items():
        steps = candidate["steps"] if len(candidate["step_scores"]) > 1 else ["\n".join(candidate["steps"])]
        note = f"[{name}; the answer is {'right' if candidate['correct'] else 'wrong'}]"
        shown.append(Solution(problem["prompt"], steps, candidate["step_scores"], note=note))
    caption = "Two solutions of one problem; the numbers are scores, and their colours go from brown (wrong) to teal."
    return Picture("solutions", solution_picture(shown), caption)


def main() -> None:
    started_at = time.time()
    arguments = parse_arguments()
    state = start_processes()
    output = output_file(arguments.output_dir, "scores.jsonl", arguments.dataset)
    output_dir = output.parent
    scorer = load_solution_scorer(arguments, state)
    refused_path = output_dir / "refused_rows.jsonl" if state.is_main_process else None
    problems, counts = load_checked(arguments.dataset, check_problem, refused_path, arguments.split)
    numbers_of_candidates = [len(problem["candidates"]) for problem in problems]
    sizes_up_to(numbers_of_candidates, arguments.num_n)  # an N that is too large is refused before hours of scoring
    read = [read_candidates(scorer, problem, arguments.max_length) for problem in problems]
    scores = score_solutions(scorer, [solutions for solutions, _, _ in read], output)
    leave_together()  # the others have nothing to do while votes are counted
    if not state.is_main_process:
        return

    for problem, (_, places, _), of_problem in zip(problems, read, scores, strict=True):
        for candidate in problem["candidates"]:
            candidate["step_scores"] = []
        for place, of_solution in zip(places, of_problem, strict=True):
            problem["candidates"][place]["step_scores"] = of_solution
    unread = [why for _, _, whys in read for why in whys]
    least, most = min(numbers_of_candidates), max(numbers_of_candidates)
    notes = [report_counts(counts), f"{sum(numbers_of_candidates):,} solutions of {len(problems):,} problems"]
    if least < most:
        notes.append(f"problems have {least:,} to {most:,} solutions; N goes to {arguments.num_n or least:,}")
    if unread:
        notes.append(f"{len(unread):,} solutions could not be read and have the score 0; the first: {unread[0]}")
    write_rows(output, problems, [{} for _ in problems])
    print("\n".join(notes))

    curves = curves_of(problems, arguments.num_n, arguments.draws, scorer.reward_of)
    remove_parts(output)
    table, numbers = curves_table(curves), curves_json(curves)
    write_atomically(output_dir / "curves.json", json.dumps(numbers, indent=1) + "\n")
    top = curves.sizes[-1]
    names = ["pass@1", "majority", "best of N, min" if scorer.reward_of == "steps" else "best of N, last"]
    caption = (
        "Problems solved by choosing among N solutions. Bands: 95 % over problems, of the majority and one choice."
    )
    pictures = [Picture("best_of_n", curves_figure(curves), caption)]
    shown = next((problem for problem in problems if any(c["step_scores"] for c in problem["candidates"])), None)
    write_report(
        output_dir,
        title=f"Best of {top}",
        lead=f"{arguments.reward_name_or_path} on {len(problems):,} problems of {arguments.dataset}.",
        headline={f"{name}, N = {top}": f"{100 * curves.means[name][-1]:.1f} %" for name in names},
        figures=[*pictures, *([picture_of(shown)] if shown else [])],
        tables=[table],
        notes=notes,
    )
    write_run_info(
        output_dir, vars(arguments), started_at, reward_of=scorer.reward_of, num_unread=len(unread), **numbers
    )
    print(f"\n{table_text(table)}\n\nreport: {output_dir / 'report.html'}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_solution_arguments(parser)
    add_length_argument(parser)
    parser.add_argument("--dataset", required=True, help="Problems with solutions: a file, a folder or a hub data set.")
    parser.add_argument("--split", default=None, help="Split of a hub data set.")
    parser.add_argument("--output_dir", required=True, help="Directory to write.")
    parser.add_argument("--num_n", type=int, default=None, help="Largest N. Default: as many as every problem has.")
    parser.add_argument("--draws", type=int, default=64, help="Random subsets per problem and N that votes are over.")
    arguments = parser.parse_args()
    for name in ("num_n", "draws"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; it must be at least 1")
    return arguments


if __name__ == "__main__":
    exit_cleanly(main)
