"""SSRM on real preferences, on a CPU: RMB with a tenth of its labels, SmolLM2-135M, scalar rewards.

    RM_DATA_DIR=<folder with rmb/ rewardbench_like/> python benchmarks/real_ssrm.py

Converts RMB, drops every prompt that also occurs in the evaluation table, samples by prompt up to the token budget and
holds prompts out. Three models of the same recipe and the same number of optimizer steps are compared on the held-out
pairs: one sees a tenth of the labels, one all of them, and `ssrm/self_train.py` the tenth and its own labels of the
others. Nothing of the data leaves `runs/` and `pairs/`.
"""

import argparse
import json
import random
import time

from load_recipe import ROOT
from machine import write_record
from real_judged import longer_wins, numbers_of, print_table, probabilities
from real_rows import data_dir_of, load_pairs, run, sample_by_prompt, write_pairs

from useful_code import metrics
from useful_code.chat_pairs import prompt_key, prompt_of, split_by_prompt
from useful_code.converting.contamination import EvaluationPrompts, read_evaluation_prompts
from useful_code.render import read_template
from useful_code.reward_model import load_tokenizer
from useful_code.run_info import git_commit
from useful_code.user_errors import exit_cleanly

RECIPE = "bradley-terry-rm/train_bradley_terry.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2-135m", help="Directory of the model to start from.")
    parser.add_argument("--max_tokens", type=int, default=300_000, help="Tokens of all pairs, both sides in full.")
    parser.add_argument("--max_length", type=int, default=512, help="Tokens of a side; longer pairs are left out.")
    parser.add_argument("--held_out_share", type=float, default=0.3, help="Share of the prompts that are held out.")
    parser.add_argument("--max_steps", type=int, default=80, help="Optimizer steps of every training, 8 pairs each.")
    parser.add_argument("--rounds", type=int, default=1, help="Of self-training.")
    parser.add_argument("--threshold", type=float, default=0.8, help="Confidence of a kept pseudo-label.")
    parser.add_argument("--seed", type=int, default=0, help="Of the sample, the splits and the training.")
    parser.add_argument("--output", default=None, help="JSON file to write: scores only, nothing of the data.")
    arguments, recipe_flags = parser.parse_known_args()
    data_dir = data_dir_of("rmb", "rewardbench_like")
    started_at, commit = time.time(), git_commit()

    template = read_template(load_tokenizer(str(ROOT / arguments.model)))
    evaluation = EvaluationPrompts(
        read_evaluation_prompts(str(data_dir / "rewardbench_like/rewardbench_like.jsonl.gz"))
    )
    rows = load_pairs("rmb", [data_dir / "rmb/pairwise.jsonl.gz"], template, evaluation, arguments.max_length)
    sample = sample_by_prompt(rows, arguments.max_tokens, random.Random(arguments.seed))
    train, held_out = split_by_prompt(sample, arguments.held_out_share, arguments.seed)
    folder = f"runs/real-ssrm-{arguments.seed}"
    (ROOT / folder).mkdir(parents=True, exist_ok=True)
    write_pairs(ROOT / f"{folder}/train.jsonl", train)
    write_pairs(ROOT / f"{folder}/held_out.jsonl", held_out)
    print(f"{len(train):,} training pairs, {len(held_out):,} held out")

    seed = ("--seed", str(arguments.seed))
    run("ssrm/hide_labels.py", "--dataset", f"{folder}/train.jsonl", "--output", f"{folder}/tenth", *seed)
    training = (
        *("--config", "bradley-terry-rm/smollm2-135m.yaml", "--model_name_or_path", arguments.model),
        *("--max_length", str(arguments.max_length), "--max_steps", str(arguments.max_steps), *seed, *recipe_flags),
    )
    run(
        *("ssrm/self_train.py", "--labelled", f"{folder}/tenth/labelled.jsonl"),
        *("--unlabelled", f"{folder}/tenth/unlabelled.jsonl", "--eval_dataset", f"{folder}/held_out.jsonl"),
        *("--output_dir", f"{folder}/self-training", "--rounds", str(arguments.rounds)),
        *("--threshold", str(arguments.threshold), "--recipe", RECIPE, *training),
    )
    report = ("--output_dir", f"{folder}/self-training", "--audit", f"{folder}/tenth-audit.jsonl")
    run("ssrm/report_rounds.py", *report)
    files = ("--dataset", f"{folder}/train.jsonl", "--eval_dataset", f"{folder}/held_out.jsonl")
    run(RECIPE, *files, "--output_dir", f"{folder}/all", *training)

    models = {
        "a tenth of the labels": "self-training/round-0/model",
        "SSRM": f"self-training/round-{arguments.rounds}/model",
        "all labels": "all",
    }
    judged = {
        name: probabilities("scalar", f"{folder}/{model}", f"{folder}/held_out.jsonl", f"{folder}/scores.jsonl")
        for name, model in models.items()
    }
    judged["longer answer wins"] = longer_wins(held_out)
    table = {"held out": {name: numbers_of(probability, held_out) for name, probability in judged.items()}}
    print_table(table)
    outcomes = {name: metrics.pair_outcomes(probability - 0.5) for name, probability in judged.items()}
    groups = [prompt_key(prompt_of(row)) for row in held_out]
    leads = {
        f"{first} less {second}": metrics.paired_difference_interval(outcomes[first], outcomes[second], groups=groups)
        for first, second in (("SSRM", "a tenth of the labels"), ("all labels", "a tenth of the labels"))
    }
    for name, lead in leads.items():
        print("{}: {:+.3f} ({:+.3f} to {:+.3f})".format(name, *lead))
    if arguments.output:
        rounds = [
            {"kept": one["pseudo"]["kept"], "rows": one["pseudo"]["rows"], "right": one["audit"]["kept"]}
            for one in json.loads((ROOT / folder / "self-training/rounds.json").read_text(encoding="utf-8"))[1:]
        ]
        results = {
            "seed": arguments.seed,
            "max_steps": arguments.max_steps,
            "threshold": arguments.threshold,
            "recipe_flags": recipe_flags,
            "training_pairs": len(train),
            "held_out": table["held out"],
            "leads": leads,
            "pseudo_labels_by_round": rounds,
            "minutes": (time.time() - started_at) / 60,
        }
        write_record(arguments.output, commit, [results])


if __name__ == "__main__":
    exit_cleanly(main)
