r"""Many solutions of every problem, to choose among: from problems with a gold answer to the rows of best_of_n.py.

    python math-rm/sample_solutions.py --generator_name_or_path models/my-generator \
        --input test_problems.jsonl --output candidates.jsonl --num_solutions 64
    python math-rm/sample_solutions.py --endpoint http://localhost:8000/v1 --model my-generator ...    # vLLM, SGLang

Input: `{"prompt" (or question, problem): text, "answer": gold}`; a whole gold solution will do ("... #### 18", or a
\boxed answer). Output: a row per problem with its columns, `gold` and `candidates`, as useful_code/solution_rows.py
reads them. Every sample is one of them, in order: equal ones count in a vote, and an empty text, or one that was cut
off before it states an answer, is a wrong solution. A failed request is none; the same command asks for it again.

Beside `candidates.jsonl` it writes `candidates.jsonl.completions.jsonl` (every text as it arrives: the same command
goes on where it stopped, a larger --num_solutions adds to what is there, and none is paid twice),
`candidates_refused_rows.jsonl` and `candidates_card.json`. One process, as make_rollouts.py.
"""

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from rollout_generators import Question
from rollout_options import add_sampling_arguments, check_sampling_arguments, open_sampler, open_store
from rollout_report import cost, not_used, sampling_card
from rollout_rows import Problem, asked, candidate_of, problem_check, read_checked, source_options, why_no_sample
from rollout_store import Sampler

from useful_code.atomic_write import write_atomically
from useful_code.read_rows import report_counts, write_refused
from useful_code.response_rows import check_output
from useful_code.row_readers import ReadRow
from useful_code.solution_rows import check_candidates
from useful_code.user_errors import UserError, exit_cleanly


@dataclass
class Made:
    """What became of problems and samples."""

    problems: int = 0  # written
    problems_with_fewer: int = 0  # solutions than asked for
    fewest: int | None = None  # solutions of a problem
    problems_solved: int = 0  # by one of their solutions at least
    solutions: int = 0
    solutions_right: int = 0
    repeated: int = 0  # equal to an earlier solution of the problem
    empty: int = 0
    without_answer: int = 0


def run(
    rows: Sequence[tuple[ReadRow, Problem]],
    sampler: Sampler,
    arguments: argparse.Namespace,
    output: Path,
    refused_path: Path,
) -> tuple[Made, Counter[str]]:
    """Sample and write everything, part by part; a problem without any solution joins the refused rows."""
    made, refused = Made(), Counter[str]()
    partial = output.with_name(f"{output.name}.partial")
    with (
        open(partial, "w", encoding="utf-8", errors="backslashreplace") as file,
        open(refused_path, "a", encoding="utf-8", errors="backslashreplace") as refused_file,
    ):
        for start in range(0, len(rows), arguments.rows_per_part):
            part = rows[start : start + arguments.rows_per_part]
            questions = [Question(asked(problem, arguments.instruction), "") for _, problem in part]
            for (place, problem), replies in zip(part, sampler.sample(questions, arguments.num_solutions), strict=True):
                if not replies:
                    why = why_no_sample(sampler)
                    refused[why.reason] += 1
                    write_refused(refused_file, place, why)
                    continue
                candidates = [candidate_of(problem, reply) for reply in replies]
                row = check_candidates({**problem.row, "gold": problem.gold, "candidates": candidates})
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                note(made, row["candidates"], arguments.num_solutions)
    if not made.problems:
        raise UserError(f"no problem has a solution; see {refused_path}. {cost(sampler)[-1]}")
    os.replace(partial, output)
    return made, refused


def note(made: Made, candidates: list[dict], num_asked: int) -> None:
    """Count a problem and its candidates."""
    right = sum(candidate["correct"] for candidate in candidates)
    made.problems += 1
    made.problems_with_fewer += len(candidates) < num_asked
    made.fewest = min(len(candidates), len(candidates) if made.fewest is None else made.fewest)
    made.problems_solved += right > 0
    made.solutions += len(candidates)
    made.solutions_right += right
    made.repeated += len(candidates) - len({candidate["response"] for candidate in candidates})
    made.empty += sum(not candidate["steps"] for candidate in candidates)
    made.without_answer += sum(candidate["answer"] is None for candidate in candidates)


def summary(made: Made, sampler: Sampler, num_asked: int) -> str:
    """Lines for a person."""
    solved = f"{made.problems_solved:,} of {made.problems:,} problems are solved by one of them"
    lines = [
        f"solutions: {made.solutions:,}, {made.solutions_right / made.solutions:.1%} right; {solved}",
        f"among them: {made.repeated:,} equal to an earlier one, {made.without_answer:,} without an answer, "
        f"{made.empty:,} empty",
    ]
    if made.problems_with_fewer:
        lines.append(
            f"{made.problems_with_fewer:,} problems have fewer than {num_asked:,} solutions, the least {made.fewest}"
        )
    return "\n".join([*lines, *cost(sampler)])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="Problems with gold answers: file, folder or hub data set.")
    add_sampling_arguments(parser, "8")
    arguments = parser.parse_args()
    check_sampling_arguments(arguments, arguments.num_solutions)
    return arguments


def main() -> None:
    started_at = time.time()
    arguments = parse_arguments()
    output, refused_path = check_output(arguments.output, arguments.input)
    card_path = output.with_name(f"{output.stem}_card.json")
    check = problem_check(set())
    with closing(open_store(output)) as store:
        options = source_options([arguments.input], arguments.split, arguments.config_name)[arguments.input]
        rows, counts = read_checked(arguments.input, check, refused_path, arguments.limit, options)
        with closing(open_sampler(arguments, store)) as sampler:
            card_path.unlink(missing_ok=True)  # it would tell of other rows
            print(report_counts(counts))
            print(
                f"{len(rows):,} problems: {len(rows) * arguments.num_solutions:,} solutions of up to "
                f"{arguments.max_new_tokens:,} tokens; {store.num_stored:,} are stored already",
                flush=True,
            )
            made, refused = run(rows, sampler, arguments, output, refused_path)
    card = {
        **sampling_card(sampler, arguments.instruction, counts, refused),
        "num_solutions": arguments.num_solutions,
        "made": asdict(made),
        "minutes": round((time.time() - started_at) / 60, 3),
    }
    write_atomically(card_path, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    print(summary(made, sampler, arguments.num_solutions))
    for line in not_used(refused, refused_path):
        print(line)
    print(f"written to {output}")


if __name__ == "__main__":
    exit_cleanly(main)
