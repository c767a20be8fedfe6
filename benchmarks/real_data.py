"""Bradley-Terry on real preferences, on a CPU: hh_rlhf (harmless) and RMB, SmolLM2-135M, scored on real held-out rows.

    RM_DATA_DIR=<folder with hh_rlhf_harmless/ rmb/ rewardbench_like/> python benchmarks/real_data.py

Converts both sets, drops every prompt that also occurs in the RewardBench-shaped evaluation table, samples by prompt
up to the token budget, holds prompts out, trains with the recipe's own command, and sets the result beside two floors:
"the longer answer wins" and a bag of words (logistic regression on differences of word counts). Learning rate and
layers are chosen with `--tune`, which holds out a part of the training prompts and leaves the reported rows alone.
Nothing of the data leaves `runs/` and `pairs/`, which git ignores.
"""

import json
import random
import time

import numpy as np
from load_recipe import ROOT
from machine import write_record
from real_judged import paired_lead, print_leads
from real_rows import REWARDBENCH_LIKE, data_dir_of, run, sample_sources, sampling_parser, write_pairs
from scipy.sparse import vstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from useful_code import metrics
from useful_code.chat_pairs import prompt_key, prompt_of, split_by_prompt
from useful_code.converting.contamination import EvaluationPrompts, read_evaluation_prompts
from useful_code.run_info import git_commit
from useful_code.training.record import response_lengths
from useful_code.user_errors import exit_cleanly

INPUTS = {
    "hh_rlhf": ["hh_rlhf_harmless/harmless_base_test.jsonl.gz"],
    "rmb": ["rmb/pairwise.jsonl.gz"],
}


def bag_of_words_margins(train: list[dict], held_out: list[dict]) -> np.ndarray:
    """Margins of a logistic regression on chosen minus rejected word counts, both orders of every training pair."""
    vectorizer = CountVectorizer(min_df=3, binary=True).fit(
        [row[side][-1]["content"] for row in train for side in ("chosen", "rejected")]
    )

    def differences(rows: list[dict]):
        sides = [vectorizer.transform([row[side][-1]["content"] for row in rows]) for side in ("chosen", "rejected")]
        return (sides[0].astype(float) - sides[1]).tocsr()

    features = differences(train)
    labels = np.repeat([1, 0], features.shape[0])
    model = LogisticRegression(C=0.1, fit_intercept=False, max_iter=2000).fit(vstack([features, -features]), labels)
    return model.decision_function(differences(held_out))


def outcome_table(sides: dict[str, np.ndarray], rows: list[dict]) -> dict[str, dict[str, dict]]:
    """Accuracy with its 95 % interval (prompts resampled) of every side's margins (N,), over all rows and by source."""
    groups = np.array([prompt_key(prompt_of(row)) for row in rows])
    sources = np.array([row["source"] for row in rows])
    table: dict[str, dict[str, dict]] = {}
    for name, margins in sides.items():
        outcomes = metrics.pair_outcomes(margins, tie_credit=0.5 if name == "longer answer wins" else 0.0)
        table[name] = {}
        for part in ("all", *INPUTS):
            chosen = np.full(len(rows), True) if part == "all" else sources == part
            low, high = metrics.bootstrap_interval(outcomes[chosen], groups=list(groups[chosen]))
            table[name][part] = {
                "pairs": int(chosen.sum()),
                "accuracy": float(outcomes[chosen].mean()),
                "interval": [low, high],
            }
    return table


def lead_over_words(sides: dict[str, np.ndarray], rows: list[dict]) -> tuple[float, float, float]:
    """Accuracy of the reward model less that of the bag of words, with its 95 % interval (prompts resampled)."""
    model, words = (metrics.pair_outcomes(sides[name]) for name in ("reward model", "bag of words"))
    return paired_lead(model, words, rows)


def print_table(table: dict[str, dict[str, dict]]) -> None:
    print(f"\n{'held-out accuracy':<20}" + "".join(f"{part:>24}" for part in ("all", *INPUTS)))
    for name, parts in table.items():
        cells = ["{:.3f} ({:.3f}-{:.3f})".format(cell["accuracy"], *cell["interval"]) for cell in parts.values()]
        print(f"{name:<20}" + "".join(f"{cell:>24}" for cell in cells))
    print(f"{'pairs':<20}" + "".join(f"{cell['pairs']:>24,}" for cell in next(iter(table.values())).values()))


def scored_margins(model: str, rows_file: str, output: str) -> np.ndarray:
    """Margins (N,) of the pairs of a file, by the command that users know."""
    run("useful_code/score.py", "--reward_name_or_path", model, "--input", rows_file, "--output", output)
    lines = (ROOT / output).read_text(encoding="utf-8").splitlines()
    scores = np.array([json.loads(line)["scores"] for line in lines])  # (N, 2)
    return scores[:, 0] - scores[:, 1]


def main() -> None:
    parser = sampling_parser(__doc__, max_tokens=600_000, max_length=1024)
    parser.add_argument(
        "--tune", action="store_true", help="Hold out training prompts in place of the reported ones; do not evaluate."
    )
    parser.add_argument("--prepare_only", action="store_true", help="Stop before training.")
    parser.add_argument(
        "--output_dir", default=None, help="Of the model. Default: runs/real-<seed>, or runs/real-tune."
    )
    arguments, recipe_flags = parser.parse_known_args()
    data_dir = data_dir_of("hh_rlhf_harmless", "rmb", "rewardbench_like")
    output = arguments.output_dir or f"runs/real-{'tune' if arguments.tune else arguments.seed}"
    started_at, commit = time.time(), git_commit()

    evaluation = EvaluationPrompts(read_evaluation_prompts(str(data_dir / REWARDBENCH_LIKE)))
    sampled = sample_sources(INPUTS, data_dir, evaluation, arguments, random.Random(arguments.seed))
    train, held_out = split_by_prompt(sampled, arguments.held_out_share, arguments.seed)
    if arguments.tune:
        train, held_out = split_by_prompt(train, arguments.held_out_share, arguments.seed + 1)
    train_file, held_out_file = "pairs/real/train.jsonl", "pairs/real/held_out.jsonl"
    write_pairs(ROOT / train_file, train)
    write_pairs(ROOT / held_out_file, held_out)
    lengths = response_lengths(held_out)  # (N, 2)
    sides = {
        "bag of words": bag_of_words_margins(train, held_out),
        "longer answer wins": lengths[:, 0] - lengths[:, 1],
    }
    print(f"\n{len(train):,} training pairs, {len(held_out):,} held out")
    print_table(outcome_table(sides, held_out))
    if arguments.prepare_only:
        return

    run(
        *("bradley-terry-rm/train_bradley_terry.py", "--config", "bradley-terry-rm/smollm2-135m.yaml"),
        *("--model_name_or_path", arguments.model, "--max_length", str(arguments.max_length)),
        *("--dataset", train_file, "--eval_dataset", held_out_file),
        *("--output_dir", output, "--seed", str(arguments.seed), *recipe_flags),
    )
    sides = {"reward model": scored_margins(output, held_out_file, f"{output}/held_out_scores.jsonl"), **sides}
    table = outcome_table(sides, held_out)
    print_table(table)
    lead = lead_over_words(sides, held_out)
    print_leads({"reward model less bag of words": lead})
    if arguments.tune:
        return
    record = f"{output}/rewardbench_like"
    run(
        *("useful_code/eval_reward_bench_bt.py", "--reward_name_or_path", output),
        *("--record_dir", f"{record}.txt", "--data_set_name", str(data_dir / REWARDBENCH_LIKE)),
    )
    evaluation = json.loads((ROOT / f"{record}.json").read_text(encoding="utf-8"))
    training = json.loads((ROOT / output / "run.json").read_text(encoding="utf-8"))
    results = {
        "seed": arguments.seed,
        "recipe_flags": recipe_flags,
        "training_pairs": len(train),
        "held_out": table,
        "lead_over_bag_of_words": lead,
        "rewardbench_like": {key: evaluation[key] for key in ("score", "sections", "prior", "scoring_version")},
        "minutes": {"training": training["minutes"], "all": (time.time() - started_at) / 60},
    }
    write_record(arguments.output, commit, [results])


if __name__ == "__main__":
    exit_cleanly(main)
