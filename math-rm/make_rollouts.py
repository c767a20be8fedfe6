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

from rollout_generators import Question, load_generator
from rollout_labels import KINDS, Prefix, Tally, rollout_labels
from rollout_report import Made, estimate, summary
from rollout_rows import Problem, Solution, answer_of, asked, check_problem, check_solution, solution_of
from rollout_store import CompletionStore, Sampler

from useful_code.atomic_write import write_atomically
from useful_code.final_answers import same_answer
from useful_code.judging.interface import Sampling
from useful_code.read_rows import RowCounts, checked_with_place, no_usable_row, report_counts, write_refused
from useful_code.reasons import RowRefused
from useful_code.response_rows import check_output
from useful_code.row_readers import ReadRow
from useful_code.run_info import git_commit
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
            "labels": labelled.labels,
            "outcome": solution.is_right,
            "rollouts": labelled.rollouts,
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
            yield place, RowRefused("no_solution", sampler.asked.first_error or "prompt and new tokens are too long")
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
    golds: dict[str, Problem] = {}
    if arguments.solutions and arguments.input:
        with closing(checked_with_place(arguments.input, RowCounts(arguments.input), problem_check(seen))) as rows:
            golds = {checked["problem"].row["prompt"]: checked["problem"] for _, checked in rows}

    def check(row: Any) -> dict[str, Any]:
        if not isinstance(row, dict):
            raise RowRefused("not_an_object")
        if arguments.solutions:
            return {"problem": check_solution(row, golds, arguments.step_separator)}
        return problem_check(seen)(row)

    source = arguments.solutions or arguments.input
    counts = RowCounts(source)
    good: list[tuple[ReadRow, Any]] = []
    with closing(checked_with_place(source, counts, check, refused_path, arguments.split)) as rows:
        for place, checked in rows:
            good.append((place, checked["problem"]))
            if len(good) == arguments.limit:
                break
    if not good:
        raise UserError(no_usable_row(counts))
    return good, counts


def problem_check(seen: set[str]):
    return lambda row: {"problem": check_problem(row, seen)}


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
    add("--split", default=None, help="Split of a hub data set.")
    add("--solutions", default=None, help="Step rows to label; gold in `answer`, or in --input by the prompt.")
    add("--step_separator", default="\n", help="Between the steps of --solutions, as the generator writes them.")
    add("--output", required=True, help="JSON lines file to write.")
    add("--limit", type=int, default=None, help="Rows to use, at most.")
    add("--labels", choices=KINDS, default="hard", help="Default: hard.")
    add("--num_solutions", type=int, default=15, help="Solutions per problem. Default: 15 (Math-Shepherd).")
    add("--num_completions", type=int, default=8, help="Completions per step. Default: 8 (Math-Shepherd).")
    add("--temperature", type=float, default=0.7, help="Of both. Default: 0.7.")
    add("--max_new_tokens", type=int, default=2048, help="Limit of a solution and of a completion. Default: 2048.")
    add("--seed", type=int, default=0, help="Of the samples.")
    add("--instruction", default="", help="Added to every prompt behind a blank line; the rows stay without it.")
    add("--rows_per_part", type=int, default=64, help="Rows whose completions are asked for together. Default: 64.")
    add("--generator_name_or_path", default=None, help="Directory or hub name of a causal language model.")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="auto: bfloat16 on a GPU.")
    add("--max_tokens_per_batch", type=int, default=65536, help="Padding and new tokens counted. Default: 65536.")
    add("--chat_template_path", default=None, help="Jinja file to use instead of the model's template.")
    add("--trust_remote_code", action="store_true", help="Run code that comes with the model.")
    add("--endpoint", default=None, help="Address of an OpenAI-compatible endpoint, most end in /v1.")
    add("--model", default=None, help="Name of the model at the endpoint.")
    add("--api_key_variable", default="OPENAI_API_KEY", help="Environment variable with the key. Not the key itself.")
    add("--requests_per_minute", type=float, default=None, help="Limit, repeated requests included.")
    add("--max_concurrent", type=int, default=32, help="Requests under way at a time. Default: 32.")
    add("--timeout_seconds", type=float, default=600.0, help="Of one request. Default: 600.")
    add("--max_tries", type=int, default=6, help="Of one request, with growing pauses. Default: 6.")
    add("--extra_body", default=None, help='JSON merged into every request, such as {"top_p": 0.95}.')
    return check_arguments(parser.parse_args())


def check_arguments(arguments: argparse.Namespace) -> argparse.Namespace:
    """Raise UserError for options that cannot work together."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("one process samples: start this command with python; many GPUs belong behind an endpoint")
    if not (arguments.input or arguments.solutions):
        raise UserError("give --input (problems to solve) or --solutions (step rows to label)")
    if (arguments.generator_name_or_path is None) == (arguments.endpoint is None):
        raise UserError("give either --generator_name_or_path (a model on this machine) or --endpoint with --model")
    if (arguments.endpoint is None) != (arguments.model is None):
        raise UserError("--endpoint and --model belong together: the address, and the name of the model there")
    whole = "num_solutions num_completions max_new_tokens rows_per_part max_tokens_per_batch max_concurrent max_tries"
    for name in [*whole.split(), "requests_per_minute", "timeout_seconds", "limit"]:
        value = getattr(arguments, name)
        if value is not None and not (1 if name in whole.split() else 0) <= value < float("inf") or value == 0:
            raise UserError(f"--{name} is {value}; it must be {'at least 1' if isinstance(value, int) else 'above 0'}")
    if not 0 <= arguments.temperature < float("inf"):
        raise UserError(f"--temperature is {arguments.temperature}; it must be a number of at least 0")
    most = max(arguments.num_completions, 1 if arguments.solutions else arguments.num_solutions)
    if not arguments.temperature and most > 1:
        raise UserError("at --temperature 0 all samples are equal: give one above 0, or 1 solution and 1 completion")
    return arguments


def main() -> None:
    started_at = time.time()
    arguments = parse_arguments()
    for source in filter(None, (arguments.input, arguments.solutions)):
        output, refused_path = check_output(arguments.output, source)
    card_path = output.with_name(f"{output.stem}_card.json")
    rows, counts = read_input(arguments, refused_path)
    store = CompletionStore(f"{output}.completions.jsonl")
    card_path.unlink(missing_ok=True)  # it would tell of other rows
    generator = load_generator(arguments)
    sampling = Sampling(arguments.temperature, arguments.max_new_tokens, arguments.seed)
    sampler = Sampler(generator, store, sampling, progress=True)
    print(report_counts(counts))
    print(estimate(rows, arguments, store.num_stored), flush=True)
    try:
        made, refused = run(rows, sampler, arguments, output, refused_path)
    finally:
        sampler.close()
    card = {
        "generator": generator.name,
        "identity": generator.identity,
        "sampling": sampling._asdict(),
        "labels": arguments.labels,
        "num_solutions": None if arguments.solutions else arguments.num_solutions,
        "num_completions": arguments.num_completions,
        "instruction": arguments.instruction,
        "source": counts.source,
        "rows_read": counts.read,
        "refused": dict(counts.refused + refused),
        "made": asdict(made),
        "asked": asdict(sampler.asked),
        "commit": git_commit(),
        "minutes": round((time.time() - started_at) / 60, 3),
    }
    write_atomically(card_path, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    print(summary(made, sampler))
    if refused:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in refused.most_common())
        print(f"sampled and not used: {reasons}; they are in {refused_path}")
    print(f"written to {output}")


if __name__ == "__main__":
    exit_cleanly(main)
