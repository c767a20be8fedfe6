"""Process and outcome models on real solutions, on a CPU: which of eleven to choose, and where the first error stands.

    RM_DATA_DIR=<folder with gsm8k_solutions/ prmbench/ big_bench_mistake/ mr_gsm8k/> python benchmarks/real_math.py

Outcome: GSM8K test problems with solutions of eleven models. Problems are held out; an outcome model is trained on the
others, and so is a bag of words. Best of 11, and best of the four gpt3 models' solutions, since writers differ (a model
may do well by telling who writes), beside the mean, the majority and the oracle.

Process: PRMBench, held out by its original questions; a process model is trained on the rest, without questions of the
evaluation sets. First errors on the held-out part, on BIG-Bench Mistake and on MR-GSM8K (wrong solutions only), beside
guessers that read nothing.

SmolLM2-135M, by the commands that users know. Further flags go to both recipes. Nothing of the data leaves `runs/`.
"""

import gzip
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from load_recipe import ROOT, load_recipe
from machine import write_record
from real_rows import data_dir_of, run, sampling_parser, write_lines
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from useful_code import metrics
from useful_code.chat_pairs import is_held_out, prompt_key, prompt_of
from useful_code.read_rows import load_checked
from useful_code.render import Template, read_template
from useful_code.reward_model import load_tokenizer
from useful_code.run_info import git_commit
from useful_code.solution_rows import check_candidates
from useful_code.step_prompt import join_steps
from useful_code.step_rows import check_steps
from useful_code.user_errors import exit_cleanly

aggregation, best_of_n = (load_recipe(f"math-rm/{name}.py") for name in ("aggregation", "best_of_n"))
CONFIG = "math-rm/smollm2-135m.yaml"
WRITERS = ("gpt3_6b_finetuning", "gpt3_6b_verification", "gpt3_175b_finetuning", "gpt3_175b_verification")
NUM_WATCHED = 10  # problems that a training itself is judged on; the others are scored by the next command alone
NUM_DRAWS = 64  # subsets that votes are over
CHOICES = ("pass@1", "majority", "best of N, last", "weighted vote, last", "oracle (pass@N)")


def main() -> None:
    parser = sampling_parser(__doc__, max_tokens=300_000, max_length=1024)
    parser.add_argument("--only", choices=("outcome", "process"), default=None, help="One of the two parts.")
    parser.add_argument("--epochs", type=int, default=1, help="Of both trainings.")
    parser.add_argument(
        "--eval_problems", type=int, default=100, help="Held-out GSM8K problems, eleven solutions each."
    )
    parser.add_argument("--eval_solutions", type=int, default=200, help="Solutions of every set with first errors.")
    arguments, recipe_flags = parser.parse_known_args()
    data_dir = data_dir_of("gsm8k_solutions", "prmbench", "big_bench_mistake", "mr_gsm8k")
    started_at, commit = time.time(), git_commit()
    template = read_template(load_tokenizer(str(ROOT / arguments.model)))
    asked = {key: getattr(arguments, key) for key in ("seed", "epochs", "max_tokens")}
    result: dict[str, Any] = asked | {"recipe_flags": recipe_flags}
    for name, part in (("outcome", outcome_part), ("process", process_part)):
        if arguments.only in (None, name):
            (ROOT / folder_of(arguments)).mkdir(parents=True, exist_ok=True)
            result[name] = part(data_dir, template, arguments, recipe_flags)
            print(json.dumps(result[name], indent=1))
    result["minutes"] = (time.time() - started_at) / 60
    write_record(arguments.output, commit, [result])


# --- which of eleven solutions ---


def outcome_part(data_dir: Path, template: Template, arguments, recipe_flags: list[str]) -> dict[str, Any]:
    problems, _ = load_checked(data_dir / "gsm8k_solutions" / "test_candidates.jsonl.gz", check_candidates)
    rng = random.Random(arguments.seed)
    rng.shuffle(problems)
    held_out, rest = problems[: arguments.eval_problems], problems[arguments.eval_problems :]
    train = [row for problem in rest for row in solutions_of(problem)]
    train = within_budget(train, template, arguments, rng)
    folder = folder_of(arguments)
    write_lines(ROOT / f"{folder}/orm_train.jsonl", train)
    few = [row for problem in held_out[:NUM_WATCHED] for row in solutions_of(problem)]
    write_lines(ROOT / f"{folder}/orm_held_out.jsonl", few)
    model = f"{folder}/orm"
    files = (f"{folder}/orm_train.jsonl", f"{folder}/orm_held_out.jsonl")
    train_model("math-rm/train_orm.py", model, *files, arguments, recipe_flags)
    found: dict[str, Any] = {"training_solutions": len(train), "problems": len(held_out)}
    words = bag_of_words(train, held_out)
    file, output = f"{folder}/candidates.jsonl", f"{folder}/best_of_n"
    write_lines(ROOT / file, held_out)
    run("math-rm/best_of_n.py", "--reward_name_or_path", model, "--dataset", file, "--output_dir", output)
    scored = [json.loads(line) for line in (ROOT / output / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    for name, writers in {"all eleven": None, "four gpt3 models": WRITERS}.items():
        kept = [
            [place for place, c in enumerate(problem["candidates"]) if writers is None or c["model"] in writers]
            for problem in scored
        ]
        rows = [
            {**row, "candidates": [row["candidates"][i] for i in places]}
            for row, places in zip(scored, kept, strict=True)
        ]
        correct = [[c["correct"] for c in row["candidates"]] for row in rows]
        chosen = [
            aggregation.best_of_n_accuracy([scores[i] for i in places], right, len(right))
            for scores, places, right in zip(words, kept, correct, strict=True)
        ]
        curves = best_of_n.curves_json(best_of_n.curves_of(rows, None, NUM_DRAWS))["curves"]
        table = {
            choice: {
                "accuracy": curves[choice]["accuracy"][-1],
                "interval": curves[choice]["interval_95"][-1],
                "over_majority": curves[choice]["over_majority_at_largest_n"],
            }
            for choice in CHOICES
        }
        low, high = metrics.bootstrap_interval(chosen)
        table["bag of words"] = {"accuracy": float(np.mean(chosen)), "interval": [low, high]}
        table["best writer"] = {"accuracy": float(np.array(correct, dtype=float).mean(0).max())}
        found[name] = table
    record = json.loads((ROOT / model / "run.json").read_text(encoding="utf-8"))
    return found | {"held_out": record["held_out"], "training_minutes": record["minutes"]}


def solutions_of(problem: dict[str, Any]) -> list[dict[str, Any]]:
    """Step rows with the outcome alone."""
    return [
        {"prompt": problem["prompt"], "completions": c["steps"], "labels": [None] * len(c["steps"])}
        | {"outcome": c["correct"]}
        for c in problem["candidates"]
        if c["steps"]
    ]


def bag_of_words(train: Sequence[dict], held_out: Sequence[dict]) -> list[np.ndarray]:
    """P(right) of every candidate of the held-out problems: logistic regression on the words of the solution."""
    vectorizer = CountVectorizer(min_df=3, binary=True, token_pattern=r"\w+|[^\w\s]")
    features = vectorizer.fit_transform([join_steps(row["completions"]) for row in train])
    model = LogisticRegression(C=0.1, max_iter=2000).fit(features, [row["outcome"] for row in train])
    return [
        model.predict_proba(vectorizer.transform([join_steps(c["steps"]) for c in problem["candidates"]]))[:, 1]
        for problem in held_out
    ]


# --- where the first error stands ---


def process_part(data_dir: Path, template: Template, arguments, recipe_flags: list[str]) -> dict[str, Any]:
    folder, rng = folder_of(arguments), random.Random(arguments.seed)
    judged = {
        "big_bench_mistake": converted("big_bench_mistake", data_dir / "big_bench_mistake/big_bench_mistake.jsonl.gz"),
        "mr_gsm8k": converted("mr_gsm8k", data_dir / "mr_gsm8k/wrong_solutions.jsonl.gz"),
    }
    parts: dict[bool, list[str]] = {True: [], False: []}
    with gzip.open(data_dir / "prmbench/prmbench.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            question = prompt_key([{"role": "user", "content": json.loads(line)["question"]}])
            parts[is_held_out(question, arguments.held_out_share, arguments.seed)].append(line)
    rows = {}
    for name, is_judged in (("prmbench held out", True), ("prmbench train", False)):
        raw = ROOT / folder / f"raw_{name.replace(' ', '_')}.jsonl"
        raw.write_text("".join(parts[is_judged]), encoding="utf-8")
        rows[name] = converted("prmbench", raw, name.replace(" ", "_"))
    judged["prmbench held out"] = rows["prmbench held out"]
    for name, found in judged.items():
        fitting = [row for row in unrepeated(found) if row["labels"][0] is not None]
        rng.shuffle(fitting)
        judged[name] = fitting[: arguments.eval_solutions]
        write_lines(ROOT / file_of(folder, name), judged[name])
    reported = {prompt_key(prompt_of(row)) for found in judged.values() for row in found}
    fresh = [row for row in unrepeated(rows["prmbench train"]) if prompt_key(prompt_of(row)) not in reported]
    train = within_budget(fresh, template, arguments, rng)
    write_lines(ROOT / f"{folder}/prm_train.jsonl", train)
    model = f"{folder}/prm"
    write_lines(ROOT / f"{folder}/prm_held_out.jsonl", judged["prmbench held out"][: 3 * NUM_WATCHED])
    files = (f"{folder}/prm_train.jsonl", f"{folder}/prm_held_out.jsonl")
    train_model("math-rm/train_prm.py", model, *files, arguments, recipe_flags)
    found: dict[str, Any] = {"training_solutions": len(train)}
    for name in judged:
        output = f"{folder}/errors_{name.replace(' ', '_')}"
        run(
            *("math-rm/find_errors.py", "--reward_name_or_path", model, "--dataset", file_of(folder, name)),
            *("--output_dir", output),
        )
        record = json.loads((ROOT / output / "run.json").read_text(encoding="utf-8"))
        found[name] = {"model": record["model"], "floors": record["floors"]}
    record = json.loads((ROOT / model / "run.json").read_text(encoding="utf-8"))
    return found | {"held_out": record["held_out"], "training_minutes": record["minutes"]}


def converted(source: str, file: Path, name: str | None = None) -> list[dict[str, Any]]:
    """The step rows of a file, by the command that users know."""
    output = f"runs/steps/{name or source}"
    run("useful_code/convert_dataset.py", "--source", source, "--input", str(file), "--output", output)
    return load_checked(ROOT / output, check_steps)[0]


def unrepeated(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every solution once: the right originals of PRMBench come again with every kind of change."""
    return list({json.dumps([row["prompt"], row["completions"]]): row for row in rows}.values())


# --- both ---


def within_budget(rows: list[dict[str, Any]], template: Template, arguments, rng: random.Random) -> list[dict]:
    """Rows in random order up to the token budget, without those over the limit."""
    rows = rows[:]
    rng.shuffle(rows)
    kept, spent = [], 0
    for row in rows:
        length = len(template.tokenizer(" ".join([row["prompt"], *row["completions"]])).input_ids)
        length += 10 * len(row["completions"])  # about what a chat template adds to a step
        if length <= arguments.max_length and spent + length <= arguments.max_tokens:
            kept.append(row)
            spent += length
    print(f"{len(kept):,} solutions to train on, about {spent:,} tokens")
    return kept


def train_model(script: str, output: str, train_file: str, held_out_file: str, arguments, recipe_flags) -> None:
    run(
        *(script, "--config", CONFIG, "--model_name_or_path", arguments.model, "--output_dir", output),
        *("--dataset", train_file, "--eval_dataset", held_out_file, "--max_length", str(arguments.max_length)),
        *("--seed", str(arguments.seed), "--num_train_epochs", str(arguments.epochs), "--save_strategy", "no"),
        *recipe_flags,
    )


def folder_of(arguments) -> str:
    return f"runs/real-math-{arguments.seed}"


def file_of(folder: str, name: str) -> str:
    return f"{folder}/{name.replace(' ', '_')}.jsonl"


if __name__ == "__main__":
    exit_cleanly(main)
