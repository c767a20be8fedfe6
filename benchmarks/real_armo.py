"""ArmoRM from real ratings and real preferences, on a CPU, beside the Bradley-Terry model whose decoder it is built on.

    RM_DATA_DIR=<folder with human_ratings/ do_not_answer/ xstest/ gsm8k_solutions/ rmb/ rewardbench_like/> \\
        python benchmarks/real_armo.py

Ratings: people's of summaries, of sentences made from data and of dialogue answers, harm and refusal, and whether a
solution is right; nobody rated verbosity, so that it is counted: in which fifth of its source an answer's length lies.
Preferences: RMB. Prompts that also occur in the evaluation table are dropped from both. A Bradley-Terry model is
trained on the pairs; its frozen decoder embeds everything; objectives, gate and directory are made by the commands that
users know. Both models then judge held-out pairs and a sample of the RewardBench-shaped table. SmolLM2-135M. Nothing of
the data leaves `runs/` and `pairs/`.
"""

import gzip
import json
import random
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from load_recipe import ROOT
from machine import write_record
from real_judged import longer_wins, numbers_of, paired_lead, print_leads, print_table, probabilities
from real_rows import (
    REWARDBENCH_LIKE,
    convert,
    data_dir_of,
    run,
    sample_sources,
    sampling_parser,
    write_lines,
    write_sets,
)

from useful_code import metrics
from useful_code.chat_pairs import split_by_prompt
from useful_code.converting.contamination import EvaluationPrompts, read_evaluation_prompts
from useful_code.rated_rows import check_rated
from useful_code.read_rows import load_checked
from useful_code.rewardbench_rows import load_rows
from useful_code.run_info import git_commit
from useful_code.user_errors import UserError, exit_cleanly

RATED = {
    "human_ratings_summarization": "human_ratings/summarization.jsonl.gz",
    "human_ratings_data_to_text": "human_ratings/data_to_text.jsonl.gz",
    "human_ratings_dialogue": "human_ratings/dialogue.jsonl.gz",
    "do_not_answer_ratings": "do_not_answer/data_en.jsonl.gz",
    "xstest_ratings": "xstest/completions.jsonl.gz",
}
SOLUTIONS = "gsm8k_solutions/test_candidates.jsonl.gz"
INPUTS = {"rmb": ["rmb/pairwise.jsonl.gz"]}
MIN_RATINGS = 50  # of an objective; fewer say nothing on held-out prompts
SCRIPTS = {
    kind: f"armo-rm/{name}.py"
    for kind, name in (("embed", "extract_embeddings"), ("fit", "fit_objectives"), ("gate", "train_gating"))
}


def correct_solutions(path: Path) -> list[dict]:
    """Every candidate with the rating `gsm8k-correct`, 0 or 1."""
    rows = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            problem = json.loads(line)
            question = {"role": "user", "content": problem["question"]}
            for one in problem["candidates"]:
                answer = {"role": "assistant", "content": one["response"]}
                ratings = {"gsm8k-correct": float(one["correct"])}
                rows.append({"messages": [question, answer], "ratings": ratings, "scales": {"gsm8k-correct": [0, 1]}})
    return rows


def sample_rated(
    data_dir: Path, evaluation: EvaluationPrompts, num_rows: int, max_characters: int, rng: random.Random
) -> list[dict]:
    """Of every source so many rated answers, without prompts of the evaluation table and without the longest."""
    sources = {
        name: load_checked(ROOT / convert(name, [data_dir / file]), check_rated)[0] for name, file in RATED.items()
    }
    sources["gsm8k_solutions"] = [check_rated(row) for row in correct_solutions(data_dir / SOLUTIONS)]
    found = []
    for name, rows in sources.items():
        strange = evaluation.contaminating([row["messages"][:-1] for row in rows])
        fresh = [row for row, where in zip(rows, strange, strict=True) if where is None]
        short = [row for row in fresh if sum(len(message["content"]) for message in row["messages"]) <= max_characters]
        if not short:
            raise UserError(f"no answer of {name} has at most {max_characters} characters; raise --max_characters")
        chosen = rng.sample(short, min(num_rows, len(short)))
        rate_verbosity(chosen)
        print(
            f"{name}: {len(rows):,} rated, {len(fresh):,} not in the evaluation table, {len(short):,} short enough,",
            end=" ",
        )
        print(f"{len(chosen):,} drawn")
        found += chosen
    return found


def hard_to_fit(rows: list[dict]) -> list[str]:
    """Objectives with fewer than MIN_RATINGS ratings, or with the same in every row."""
    ratings = defaultdict(list)
    for row in rows:
        for name, rating in row["ratings"].items():
            ratings[name].append(rating)
    found = sorted(
        name for name, all_of_it in ratings.items() if len(all_of_it) < MIN_RATINGS or len(set(all_of_it)) == 1
    )
    print(f"under {MIN_RATINGS} ratings or all the same, left out: {', '.join(found) or 'none'}")
    return found


def rate_verbosity(rows: list[dict]) -> None:
    """Add the rating `verbosity` in place: 0 for the shortest fifth of these answers, 4 for the longest."""
    lengths = np.array([len(row["messages"][-1]["content"]) for row in rows])
    fifths = np.searchsorted(np.quantile(lengths, [0.2, 0.4, 0.6, 0.8]), lengths)
    for row, fifth in zip(rows, fifths, strict=True):
        row["ratings"], row["scales"] = (
            row["ratings"] | {"verbosity": float(fifth)},
            row["scales"] | {"verbosity": [0, 4]},
        )


def main() -> None:
    parser = sampling_parser(__doc__, max_tokens=300_000, max_length=512)
    parser.add_argument("--rated_rows", type=int, default=250, help="Of every rated source, drawn by the seed.")
    parser.add_argument("--max_characters", type=int, default=2_500, help="Of a rated row; longer ones are not drawn.")
    parser.add_argument("--eval_rows", type=int, default=200, help="Of the evaluation table, drawn by the seed.")
    arguments, gate_flags = parser.parse_known_args()
    data_dir = data_dir_of("human_ratings", "do_not_answer", "xstest", "gsm8k_solutions", "rmb", "rewardbench_like")
    started_at, commit = time.time(), git_commit()
    rng = random.Random(arguments.seed)
    evaluation = EvaluationPrompts(read_evaluation_prompts(str(data_dir / REWARDBENCH_LIKE)))
    rated = sample_rated(data_dir, evaluation, arguments.rated_rows, arguments.max_characters, rng)
    sample = sample_sources(INPUTS, data_dir, evaluation, arguments, rng)
    train, held_out = split_by_prompt(sample, arguments.held_out_share, arguments.seed)
    folder = f"runs/real-armo-{arguments.seed}"
    files = write_sets(folder, {"train": train, "held out": held_out})
    write_lines(
        ROOT / folder / "rated.jsonl", [{k: row[k] for k in ("messages", "ratings", "scales")} for row in rated]
    )
    bench = f"{folder}/bench.jsonl"
    bench_rows = load_rows(str(data_dir / REWARDBENCH_LIKE))
    write_lines(ROOT / bench, rng.sample(bench_rows, min(arguments.eval_rows, len(bench_rows))))

    plain, of_rated, of_pairs, objectives, gate, armo = (
        f"{folder}/{name}" for name in ("bradley-terry", "of-rated", "of-pairs", "objectives", "gate", "armo")
    )
    run(
        *("bradley-terry-rm/train_bradley_terry.py", "--config", "bradley-terry-rm/smollm2-135m.yaml"),
        *("--model_name_or_path", arguments.model, "--dataset", files["train"], "--eval_dataset", files["held out"]),
        *("--output_dir", plain, "--max_length", str(arguments.max_length), "--seed", str(arguments.seed)),
    )
    embedding = ("--model_name_or_path", plain, "--max_length", "2048")
    run(SCRIPTS["embed"], *embedding, "--input", f"{folder}/rated.jsonl", "--output", of_rated)
    run(SCRIPTS["embed"], *embedding, "--input", files["train"], "--output", of_pairs)
    left_out = hard_to_fit(rated)
    run(
        SCRIPTS["fit"], "--embeddings", of_rated, "--output", objectives, *(["--leave_out", *left_out] * bool(left_out))
    )
    flags = ("--objectives", objectives, "--embeddings", of_pairs, *gate_flags)
    run(SCRIPTS["gate"], *flags, "--seed", str(arguments.seed), "--output", gate)
    run("armo-rm/export_armorm.py", "--gate", gate, "--output", armo)

    models = {"ArmoRM": armo, "Bradley-Terry": plain}
    sides = {
        kind: probabilities("scalar", model, files["held out"], f"{folder}/scores.jsonl")
        for kind, model in models.items()
    }
    right = {kind: metrics.pair_outcomes(probability - 0.5, tie_credit=0.5) for kind, probability in sides.items()}
    sides["longer answer wins"] = longer_wins(held_out)
    table = {"held out": {side: numbers_of(probability, held_out) for side, probability in sides.items()}}
    leads = {"held out: ArmoRM less Bradley-Terry": paired_lead(right["ArmoRM"], right["Bradley-Terry"], held_out)}
    scores = {}
    for kind, model in models.items():
        record = f"{model}/bench.txt"
        run(
            *("useful_code/eval_reward_bench_bt.py", "--reward_name_or_path", model, "--record_dir", record),
            *("--data_set_name", bench),
        )
        bench_record = json.loads((ROOT / model / "bench.json").read_text(encoding="utf-8"))
        scores[kind] = {key: bench_record[key] for key in ("score", "sections", "prior", "scoring_version", "rows")}
    print_table(table)
    print_leads(leads)
    fitted = json.loads((ROOT / objectives / "objectives.json").read_text(encoding="utf-8"))["objectives"]
    trained = json.loads((ROOT / gate / "armorm.json").read_text(encoding="utf-8"))
    results = {
        "seed": arguments.seed,
        "gate_flags": gate_flags,
        "rated_rows": len(rated),
        "training_pairs": len(train),
        "objectives": [
            {key: one[key] for key in ("name", "train_rows", "held_out_rows", "alpha", "pearson", "low", "high")}
            for one in fitted
        ],
        "gate": {key: trained[key] for key in ("penalties", "held_out")},
        "judged": table,
        "leads": leads,
        "rewardbench_like_sample": scores,
        "minutes": (time.time() - started_at) / 60,
    }
    write_record(arguments.output, commit, [results])


if __name__ == "__main__":
    exit_cleanly(main)
