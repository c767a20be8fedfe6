"""Bradley-Terry on real preferences, on a CPU: hh_rlhf (harmless) and RMB, SmolLM2-135M, scored on real held-out rows.

    RM_DATA_DIR=<folder with hh_rlhf_harmless/ rmb/ rewardbench_like/> python benchmarks/real_data.py

Converts both sets, drops every prompt that also occurs in the RewardBench-shaped evaluation table, samples by prompt
up to the token budget, holds prompts out, trains with the recipe's own command, and sets the result beside two floors:
"the longer answer wins" and a bag of words (logistic regression on differences of word counts). Learning rate and
layers are chosen with `--tune`, which holds out a part of the training prompts and leaves the reported rows alone.
Nothing of the data leaves `runs/` and `pairs/`, which git ignores.
"""

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from load_recipe import ROOT
from scipy.sparse import vstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from useful_code import metrics
from useful_code.chat_pairs import check_pair, prompt_key, prompt_of, split_by_prompt
from useful_code.read_rows import load_checked
from useful_code.render import read_template, render
from useful_code.reward_model import load_tokenizer
from useful_code.user_errors import UserError, exit_cleanly

INPUTS = {
    "hh_rlhf": "hh_rlhf_harmless/harmless_base_test.jsonl.gz",
    "rmb": "rmb/pairwise.jsonl.gz",
}
EVALUATION = "rewardbench_like/rewardbench_like.jsonl.gz"


def run(*command: str) -> None:
    print(f"\n$ python {' '.join(command)}", flush=True)
    if subprocess.run([sys.executable, *command], cwd=ROOT).returncode != 0:
        raise UserError("the command above failed")


def evaluation_keys(path: Path) -> set[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return {prompt_key([{"role": "user", "content": json.loads(line)["prompt"]}]) for line in file}


def occurs_in(keys: set[str], row: dict) -> bool:
    """The whole prompt, or any user turn of it, stands in the evaluation set."""
    prompt = prompt_of(row)
    return prompt_key(prompt) in keys or any(prompt_key([turn]) in keys for turn in prompt if turn["role"] == "user")


def sample_by_prompt(rows: list[dict], budget: int, rng: random.Random) -> list[dict]:
    """Whole prompts in random order until the next would pass `budget` tokens (both sides counted in full)."""
    by_prompt = defaultdict(list)
    for row in rows:
        by_prompt[prompt_key(prompt_of(row))].append(row)
    keys = sorted(by_prompt)
    rng.shuffle(keys)
    chosen, spent = [], 0
    for key in keys:
        cost = sum(row["tokens"] for row in by_prompt[key])
        if spent + cost <= budget:
            spent += cost
            chosen += by_prompt[key]
    return chosen


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2-135m", help="Directory of the model to start from.")
    parser.add_argument("--max_tokens", type=int, default=600_000, help="Tokens of all pairs, both sides in full.")
    parser.add_argument("--max_length", type=int, default=1024, help="Tokens; longer pairs are left out.")
    parser.add_argument("--held_out_share", type=float, default=0.2, help="Share of the prompts that are held out.")
    parser.add_argument("--seed", type=int, default=0, help="Of the sample, the split and the training.")
    parser.add_argument(
        "--tune", action="store_true", help="Hold out training prompts in place of the reported ones; do not evaluate."
    )
    parser.add_argument("--prepare_only", action="store_true", help="Stop before training.")
    arguments, recipe_flags = parser.parse_known_args()
    if "RM_DATA_DIR" not in os.environ:
        raise UserError("set RM_DATA_DIR to the folder that holds hh_rlhf_harmless/, rmb/ and rewardbench_like/")
    data_dir = Path(os.environ["RM_DATA_DIR"])
    work, output = ROOT / "pairs" / "real", f"runs/real-{'tune' if arguments.tune else arguments.seed}"

    template = read_template(load_tokenizer(str(ROOT / arguments.model)))
    keys = evaluation_keys(data_dir / EVALUATION)
    rng = random.Random(arguments.seed)
    sampled = []
    for source, name in INPUTS.items():
        run(
            *("useful_code/convert_dataset.py", "--source", source),
            *("--input", str(data_dir / name), "--output", f"pairs/real/{source}.jsonl"),
        )
        rows, _ = load_checked(work / f"{source}.jsonl", check_pair)
        fresh = [row for row in rows if not occurs_in(keys, row)]
        for row in fresh:
            lengths = [len(render(template, row[side])) for side in ("chosen", "rejected")]
            row["tokens"] = sum(lengths)
            row["fits"] = max(lengths) <= arguments.max_length
        fitting = [row for row in fresh if row["fits"]]
        part = sample_by_prompt(fitting, arguments.max_tokens // len(INPUTS), rng)
        tokens = sum(row["tokens"] for row in part)
        print(f"{source}: {len(rows):,} pairs, {len(rows) - len(fresh):,} dropped (prompt in the evaluation table),")
        print(f"  {len(fresh) - len(fitting):,} over {arguments.max_length} tokens")
        print(f"  {len(part):,} sampled, {tokens:,} tokens")
        sampled += part
    train, held_out = split_by_prompt(sampled, arguments.held_out_share, arguments.seed)
    if arguments.tune:
        train, held_out = split_by_prompt(train, arguments.held_out_share, arguments.seed + 1)
    for name, rows in (("train", train), ("held_out", held_out)):
        lines = [json.dumps({key: row[key] for key in ("chosen", "rejected", "source")}) for row in rows]
        (work / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    floor = metrics.pair_outcomes(bag_of_words_margins(train, held_out))
    groups = [prompt_key(prompt_of(row)) for row in held_out]
    low, high = metrics.bootstrap_interval(floor, groups=groups)
    print(f"\n{len(train):,} training pairs, {len(held_out):,} held out")
    print(f"floor, bag of words: {floor.mean():.3f} ({low:.3f}-{high:.3f})")
    for source in INPUTS:
        part = [i for i, row in enumerate(held_out) if row["source"] == source]
        print(f"  of {source}: {floor[part].mean():.3f} on {len(part):,} pairs")
    if arguments.prepare_only:
        return

    run(
        *("bradley-terry-rm/train_bradley_terry.py", "--config", "bradley-terry-rm/smollm2-135m.yaml"),
        *("--model_name_or_path", arguments.model, "--max_length", str(arguments.max_length)),
        *("--dataset", "pairs/real/train.jsonl", "--eval_dataset", "pairs/real/held_out.jsonl"),
        *("--output_dir", output, "--seed", str(arguments.seed), *recipe_flags),
    )
    if arguments.tune:
        return
    run(
        *("useful_code/eval_reward_bench_bt.py", "--reward_name_or_path", output),
        *("--record_dir", f"{output}/rewardbench_like.txt", "--data_set_name", str(data_dir / EVALUATION)),
    )


if __name__ == "__main__":
    exit_cleanly(main)
