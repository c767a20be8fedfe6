"""The known-truth world's arithmetic, step by step: step labels, N candidates for one problem, and a generator.

What process and outcome reward models need (METHODS 7). A solution's steps are its sums and the closing sentence
with the answer. Two labels per step are known:

- `labels`: no mistake up to and including this step (what a human annotator of first errors would say);
- `on_path`: the running value is the true one, so a faultless completion reaches the right answer (what Monte-Carlo
  rollouts measure). It differs from `labels` only where two mistakes cancel.

The closing sentence states the last running value, so it is right when the step before it is.
"""

import re

import numpy as np

from useful_code.known_truth.text import draw_mistake, work_out
from useful_code.known_truth.world import World, draw_prompt_of_part, generators
from useful_code.user_errors import UserError

SUM = re.compile(r"(\d+) (plus|minus) (\d+) is (\d+)\.")
CLOSING = re.compile(r"\w+ has (\d+) \w+\.")


def finish_solution(
    rng: np.random.Generator, problem: dict, prefix: list[str], error_rate: float, trap: dict | None = None
) -> list[str]:
    """The steps of a whole solution that begins with `prefix` (may be empty); each new sum goes wrong with
    probability `error_rate`.

    This is the generator that rollouts call. It believes what stands in the prefix, as a language model does.
    `problem` is `truth["problem"]` of a row. `trap` (step, mistake, rate) is a mistake that is made again and again:
    whoever is right up to `step` makes it there with probability `rate`.

    >>> problem = {"name": "tom", "object": "eggs", "start": 3, "moves": [2, 3], "answer": 8}
    >>> finish_solution(np.random.default_rng(0), problem, ["3 plus 2 is 1."], error_rate=0.0)
    ['3 plus 2 is 1.', '1 plus 3 is 4.', 'tom has 4 eggs.']
    """
    steps, moves = list(prefix), problem["moves"]
    value = last_number(steps[-1]) if steps else problem["start"]
    for index in range(len(steps), len(moves)):
        mistakes: dict[int, tuple[str, int]] = {}
        draws = rng.random(2)
        if trap and index == trap["step"] and value == true_values(problem)[index] and draws[0] < trap["rate"]:
            mistakes[0] = trap["mistake"]
        elif draws[1] < error_rate:
            mistakes[0] = draw_mistake(rng, value, moves, index)
        new_steps, new_values = work_out(value, moves[index : index + 1], mistakes)
        steps, value = steps + new_steps, new_values[0]
    if len(steps) == len(moves):
        steps.append(f"{problem['name']} has {value} {problem['object']}.")
    return steps


def true_values(problem: dict) -> list[int]:
    """The true running values, the start first and the answer last."""
    return [int(value) for value in np.cumsum([problem["start"], *problem["moves"]])]


def last_number(step: str) -> int:
    """The running value, or the final answer, that a step states."""
    found = SUM.fullmatch(step) or CLOSING.fullmatch(step)
    if not found:
        raise UserError(f"known truth: {step!r} is no step of the arithmetic family")
    return int(found.groups()[-1])


def label_steps(problem: dict, steps: list[str]) -> dict:
    """labels, on_path, answer, correct, first_wrong_step (from 0; None if all are right), from the texts alone.

    >>> problem = {"name": "tom", "object": "eggs", "start": 3, "moves": [2, 3], "answer": 8}
    >>> label_steps(problem, ["3 plus 3 is 6.", "6 plus 2 is 8.", "tom has 8 eggs."])["labels"]
    [False, False, False]
    >>> label_steps(problem, ["3 plus 3 is 6.", "6 plus 2 is 8.", "tom has 8 eggs."])["on_path"]
    [False, True, True]
    """
    truth, before = true_values(problem), problem["start"]
    right, on_path = [], []
    for index, step in enumerate(steps):
        value = last_number(step)
        if index < len(problem["moves"]):
            move = problem["moves"][index]
            right.append(step == work_out(before, [move], {})[0][0])
        else:
            right.append(value == before)
        on_path.append(value == truth[min(index + 1, len(truth) - 1)])
        before = value
    labels = [all(right[: index + 1]) for index in range(len(right))]
    first_wrong = labels.index(False) if False in labels else None
    answer = {"answer": before, "correct": before == problem["answer"], "first_wrong_step": first_wrong}
    return {"labels": labels, "on_path": on_path, **answer}


def make_steps(world: World, num_rows: int, seed: int, part: str = "train", error_rate: float = 0.25) -> list[dict]:
    """Step-labelled solutions, one per problem: `prompt` (text), `completions` (steps), `labels` (bools) as in
    trl-lib/math_shepherd (METHODS 7.2), and `truth` with on_path, answer, correct, first_wrong_step, problem.

    >>> row = make_steps(World(), 1, seed=100)[0]
    >>> len(row["completions"]) == len(row["labels"]) == len(row["truth"]["problem"]["moves"]) + 1
    True
    """
    rows = []
    for row in make_candidates(world, num_rows, 1, seed, part, error_rate, trap_share=0.0, stream="steps"):
        candidate = row["candidates"][0]
        truth = {name: candidate[name] for name in ("on_path", "answer", "correct", "first_wrong_step")}
        truth |= {"problem": row["truth"]["problem"], "question": row["truth"]["question"]}
        rows.append(
            {"prompt": row["prompt"], "completions": candidate["steps"], "labels": candidate["labels"], "truth": truth}
        )
    return rows


def make_candidates(
    world: World,
    num_problems: int,
    num_candidates: int,
    seed: int,
    part: str = "held_out",
    error_rate: float = 0.25,
    trap_share: float = 0.5,
    trap_rate: float = 0.7,
    stream: str = "candidates",
) -> list[dict]:
    """N solutions per problem: `prompt`, `candidates` (steps, labels, on_path, answer, correct, first_wrong_step).

    A share `trap_share` of the problems has a trap: one mistake that a candidate makes with probability `trap_rate`
    on top of the errors by chance. There the wrong answer has the majority, so that majority voting can fail.

    >>> row = make_candidates(World(), 1, 4, seed=100)[0]
    >>> len(row["candidates"]), sorted(row["truth"])
    (4, ['has_trap', 'problem', 'question'])
    """
    if not (0 <= error_rate <= 1 and 0 <= trap_share <= 1 and 0 <= trap_rate <= 1):
        raise UserError("make_candidates: error_rate, trap_share and trap_rate must be from 0 to 1")
    rng, _ = generators(seed, part, stream)
    rows = []
    for _ in range(num_problems):
        prompt = draw_prompt_of_part(rng, world, "arithmetic", part)
        problem, trap = prompt.details, None
        step = int(rng.random() * len(problem["moves"]))
        mistake = draw_mistake(rng, true_values(problem)[step], problem["moves"], step)
        if rng.random() < trap_share:
            trap = {"step": step, "mistake": mistake, "rate": trap_rate}
        candidates = []
        for _ in range(num_candidates):
            steps = finish_solution(rng, problem, [], error_rate, trap)
            candidates.append({"steps": steps, **label_steps(problem, steps)})
        truth = {"problem": problem, "question": prompt.question, "has_trap": trap is not None}
        rows.append({"prompt": prompt.task, "candidates": candidates, "truth": truth})
    return rows
