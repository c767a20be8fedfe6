"""Find the first wrong step of solutions with a process reward model (ProcessBench, arXiv 2412.06559).

    python math-rm/find_errors.py --reward_name_or_path runs/prm --dataset steps.jsonl --output_dir runs/errors

Input: step rows whose first mistake is marked (useful_code/step_rows.py; `convert_dataset.py --source processbench`,
`prmbench`, `mr_gsm8k`, `big_bench_mistake`, ...): labels are right up to it and wrong at it; those behind it do not
count. The model's first error is the first step with a score below --threshold.

Written: predictions.jsonl (every row with its scores), report.html with pictures, and the numbers beside four guessers
that read nothing. All steps of a solution are scored in one forward pass; an interrupted run goes on where it stopped.
"""

import argparse
import time
from typing import Any

import numpy as np
from first_errors import first_error, first_error_floors, first_error_numbers, first_error_table, marked_error
from solution_picture import Solution, solution_picture

from useful_code.chat_pairs import prompt_key, prompt_of
from useful_code.processes import leave_together, start_processes
from useful_code.read_rows import load_checked, report_counts
from useful_code.report import Picture, table_text, write_report
from useful_code.response_rows import write_rows
from useful_code.resumable_scoring import remove_parts
from useful_code.run_info import write_run_info
from useful_code.scoring import add_length_argument, add_model_arguments
from useful_code.step_rows import check_steps
from useful_code.step_scoring import add_solution_arguments, load_solution_scorer, output_file, score_solutions
from useful_code.user_errors import UserError, exit_cleanly


def main() -> None:
    started_at = time.time()
    arguments = parse_arguments()
    state = start_processes()
    output = output_file(arguments.output_dir, "predictions.jsonl", arguments.dataset)
    output_dir = output.parent
    scorer = load_solution_scorer(arguments, state)
    if scorer.reward_of != "steps":
        raise UserError(f"{arguments.reward_name_or_path} judges whole solutions, not steps; give a process model")
    read = []

    def check(row: Any) -> dict[str, Any]:
        solution = check_steps(row)
        solution["first_error"] = marked_error(solution["labels"])
        read.append([scorer.read(solution["prompt"], solution["completions"], arguments.max_length)])
        return solution

    refused_path = output_dir / "refused_rows.jsonl" if state.is_main_process else None
    rows, counts = load_checked(arguments.dataset, check, refused_path, arguments.split)
    scores = [of_row for (of_row,) in score_solutions(scorer, read, output)]
    leave_together()
    if not state.is_main_process:
        return

    predicted = [first_error(of_row, arguments.threshold) for of_row in scores]
    results = [{"scores": s, "predicted_error": p} for s, p in zip(scores, predicted, strict=True)]
    write_rows(output, rows, results)
    remove_parts(output)

    true = [row["first_error"] for row in rows]
    groups = [prompt_key(prompt_of(row)) for row in rows]
    num_steps = [len(row["completions"]) for row in rows]
    numbers = first_error_numbers(predicted, true, groups)
    floors = first_error_floors(true, num_steps, groups)
    table = first_error_table({"model": numbers, **floors})
    notes = [report_counts(counts), f"a step is taken for wrong below {arguments.threshold:g}"]
    caption = "The first solutions of the file, two with an error and one without. Numbers and colours are the scores."
    pictures = [Picture("solutions", picture_of(rows, scores, predicted), caption)]
    shown = ("f1", "accuracy_wrong", "accuracy_right")
    write_report(
        output_dir,
        title="First errors",
        lead=f"{arguments.reward_name_or_path} on {len(rows):,} solutions of {arguments.dataset}.",
        headline={name.replace("_", " "): "-" if np.isnan(numbers[name]) else f"{numbers[name]:.3f}" for name in shown},
        figures=pictures,
        tables=[table],
        notes=notes,
    )
    write_run_info(output_dir, vars(arguments), started_at, model=numbers, floors=floors)
    print(f"{notes[0]}\n\n{table_text(table)}\n\nreport: {output_dir / 'report.html'}")


def picture_of(rows: list[dict[str, Any]], scores: list[list[float]], predicted: list[int | None]):
    """The first two solutions with a mistake and the first without."""
    wrong = [i for i, row in enumerate(rows) if row["first_error"] is not None][:2]
    right = [i for i, row in enumerate(rows) if row["first_error"] is None][:1]
    chosen = []
    for i in [*wrong, *right]:
        row, place = rows[i], predicted[i]
        note = f"[by the model: {'no error' if place is None else f'first error at step {place + 1}'}]"
        chosen.append(Solution(row["prompt"], row["completions"], scores[i], row["first_error"], note))
    return solution_picture(chosen)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_solution_arguments(parser)
    add_length_argument(parser)
    parser.add_argument("--dataset", required=True, help="Step rows: a file, a folder or a hub data set.")
    parser.add_argument("--split", default=None, help="Split of a hub data set.")
    parser.add_argument("--output_dir", required=True, help="Directory to write.")
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="A step with a lower score is wrong; never choose it on this set."
    )
    arguments = parser.parse_args()
    if not 0 < arguments.threshold < 1:
        raise UserError(f"--threshold is {arguments.threshold:g}; it must lie between 0 and 1")
    return arguments


if __name__ == "__main__":
    exit_cleanly(main)
