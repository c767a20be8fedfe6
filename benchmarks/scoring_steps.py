"""Scoring all steps of solutions with a process model against plain Transformers on the same texts and weights.

    python benchmarks/scoring_steps.py                                # problems of 400 tokens, 8 solutions of 8 steps
    python benchmarks/scoring_steps.py --data_set_name candidates.jsonl.gz    # columns of useful_code/solution_rows.py

Three sides take turns in one process, and must find the same log-odds: ours (each problem once for all its solutions,
all steps in one forward pass); padded batches of `--batch_size` solutions, all steps in one pass; and the original's
way, one forward pass for every step over the conversation so far. Ours gets a token budget that makes about as many
forward passes as the batched baseline. The bound is that baseline's tokens, padding included, over ours.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from machine import write_record
from operations import num_operations, packed_work, padded_work
from profiles import SEED, draw_length
from sides import compare_sides
from transformers import AutoModelForCausalLM

from useful_code.known_truth.text import CONTEXT
from useful_code.read_rows import load_checked
from useful_code.render import read_template
from useful_code.reward_model import best_device, load_tokenizer, weights_type
from useful_code.run_info import git_commit
from useful_code.scoring import score_groups
from useful_code.shared_prefix import pad
from useful_code.solution_rows import check_candidates
from useful_code.step_prompt import StepIds, VerdictForm, verdict_form
from useful_code.step_scoring import ready_scorer, register_solutions
from useful_code.user_errors import UserError, exit_cleanly
from useful_code.verdict_model import load_verdict_model

PROBLEM_TOKENS, STEP_TOKENS, NUM_STEPS = 400, 20, 8


def synthetic_problems(num_problems: int, num_solutions: int) -> list[tuple[str, list[list[str]]]]:
    """Problems and solutions of plain English words, about one token each; lengths are lognormal."""
    rng = random.Random(SEED)
    words = sorted({word for sentence in CONTEXT for word in sentence.split()})

    def text(mean: int) -> str:
        return " ".join(rng.choice(words) for _ in range(draw_length(rng, mean)))

    def solution() -> list[str]:
        return [text(STEP_TOKENS) for _ in range(NUM_STEPS)]

    return [(text(PROBLEM_TOKENS), [solution() for _ in range(num_solutions)]) for _ in range(num_problems)]


def problems_of(path: str, num_problems: int) -> list[tuple[str, list[list[str]]]]:
    """Problems of a file, drawn by the seed, with all their solutions that have a step."""
    rows, _ = load_checked(path, check_candidates)
    problems = [(row["prompt"], [c["steps"] for c in row["candidates"] if c["steps"]]) for row in rows]
    problems = [problem for problem in problems if problem[1]]
    if num_problems > len(problems):
        raise UserError(f"--num_problems is {num_problems}; the file has {len(problems)} with a solution")
    return random.Random(SEED).sample(problems, num_problems)


def compare(name: str, model_path: str, problems, batch_size: int, turns: int, dtype: torch.dtype) -> dict:
    """Seconds of the three sides over the same solutions, their ratios turn by turn, and the bound."""
    tokenizer = load_tokenizer(model_path)
    form = verdict_form(read_template(tokenizer))
    read: list[list[StepIds]] = [[form.read(prompt, steps) for steps in solutions] for prompt, solutions in problems]
    solutions = [solution for of_problem in read for solution in of_problem]
    batches = [solutions[i : i + batch_size] for i in range(0, len(solutions), batch_size)]
    groups = [[solution.ids for solution in of_problem] for of_problem in read]
    work = {
        "ours": packed_work(groups),
        "padded": padded_work([[len(solution.ids) for solution in batch] for batch in batches]),
        "step_by_step": padded_work([[place + 1] for solution in solutions for place in solution.places]),
    }
    device, budget = best_device(), -(-work["ours"][0] // len(batches))
    ours = load_verdict_model(model_path, dtype=dtype)
    scorer = ready_scorer(ours, tokenizer, form, "steps", model_path, budget, device)
    for of_problem in read:
        register_solutions(scorer, of_problem)
    plain = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype).to(device).eval()

    def score_ours() -> list[float]:
        found: list = [None] * len(groups)
        for indices, numbers in score_groups(scorer, groups):
            for index, of_problem in zip(indices, numbers, strict=True):
                found[index] = of_problem
        return [number for of_problem in found for of_solution in of_problem for number in of_solution]

    @torch.inference_mode()
    def score_padded() -> list[float]:
        found = []
        for batch in batches:
            inputs = pad([[solution.ids for solution in batch]], scorer.pad_token_id)
            inputs = {key: value.to(device) for key, value in inputs.items()}
            hidden = plain.base_model(**inputs, use_cache=False).last_hidden_state  # words only where a step is scored
            for row, solution in enumerate(batch):
                found += log_odds(plain.get_output_embeddings()(hidden[row, list(solution.places)]), form).tolist()
        return found

    @torch.inference_mode()
    def score_step_by_step() -> list[float]:
        found = []
        for ids, places in solutions:
            for place in places:
                inputs = torch.tensor([list(ids[: place + 1])], device=device)
                logits = plain(input_ids=inputs, use_cache=False, logits_to_keep=1).logits  # (1, 1, V)
                found += log_odds(logits[0], form).tolist()
        return found

    calls = {"ours": score_ours, "padded": score_padded, "step_by_step": score_step_by_step}
    result = compare_sides(calls, work, lambda one: num_operations(plain, one), len(solutions), turns, dtype)
    num_steps = sum(len(solution.places) for solution in solutions)
    counts = {"problems": len(problems), "solutions": result.pop("pairs"), "steps": num_steps}
    result["solutions_per_second"] = result.pop("pairs_per_second")
    return {"data": name, **counts, "batch_size": batch_size, **result}


def log_odds(logits: torch.Tensor, form: VerdictForm) -> torch.Tensor:
    """(M,) of the logits (M, V) where verdicts come next."""
    minus, plus = logits.float()[:, list(form.token_ids)].unbind(-1)
    return plus - minus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2-135m", help="Directory of a causal language model.")
    parser.add_argument("--data_set_name", default=None, help="Problems with solutions, else drawn ones.")
    parser.add_argument("--num_problems", type=int, default=4, help="Problems to score.")
    parser.add_argument("--num_solutions", type=int, default=8, help="Of every drawn problem.")
    parser.add_argument("--batch_size", type=int, default=8, help="Solutions per padded batch.")
    parser.add_argument("--turns", type=int, default=3, help="Turns per side, at least 3.")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="Of the weights.")
    parser.add_argument("--output", default=None, help="JSON file to write.")
    arguments = parser.parse_args()
    if arguments.turns < 3:
        raise UserError("--turns must be at least 3: a median of fewer says little")
    for name in ("num_problems", "num_solutions", "batch_size"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} must be at least 1")
    if arguments.data_set_name:
        name, problems = (
            Path(arguments.data_set_name).name,
            problems_of(arguments.data_set_name, arguments.num_problems),
        )
    else:
        name = f"{PROBLEM_TOKENS} + {NUM_STEPS} x {STEP_TOKENS}"
        problems = synthetic_problems(arguments.num_problems, arguments.num_solutions)
    commit, dtype = git_commit(), weights_type(arguments.dtype, best_device())
    result = compare(name, arguments.model, problems, arguments.batch_size, arguments.turns, dtype)
    print(json.dumps(result, indent=1))
    if arguments.output:
        write_record(arguments.output, commit, [result])


if __name__ == "__main__":
    exit_cleanly(main)
