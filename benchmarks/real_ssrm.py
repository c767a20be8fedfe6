"""SSRM on real preferences, on a CPU: RMB with a tenth of its labels, SmolLM2-135M, scalar rewards.

    RM_DATA_DIR=<folder with rmb/ rewardbench_like/> python benchmarks/real_ssrm.py

Converts RMB, drops every prompt that also occurs in the evaluation table, samples by prompt up to the token budget and
holds prompts out. Three models of the same recipe and the same number of optimizer steps are compared on the held-out
pairs: one sees a tenth of the labels, one all of them, and `ssrm/self_train.py` the tenth and its own labels of the
others. Nothing of the data leaves `runs/` and `pairs/`.
"""

import json
import random
import time

from load_recipe import ROOT
from machine import write_record
from real_judged import longer_wins, numbers_of, paired_lead, print_leads, print_table, probabilities
from real_rows import REWARDBENCH_LIKE, data_dir_of, run, sample_sources, sampling_parser, write_sets

from useful_code import metrics
from useful_code.chat_pairs import split_by_prompt
from useful_code.converting.contamination import EvaluationPrompts, read_evaluation_prompts
from useful_code.run_info import git_commit
from useful_code.user_errors import exit_cleanly

INPUTS = {"rmb": ["rmb/pairwise.jsonl.gz"]}
RECIPE = "bradley-terry-rm/train_bradley_terry.py"


def main() -> None:
    parser = sampling_parser(__doc__, max_tokens=300_000, max_length=512, held_out_share=0.3)
    parser.add_argument("--max_steps", type=int, default=80, help="Optimizer steps of every training, 8 pairs each.")
    parser.add_argument("--rounds", type=int, default=1, help="Of self-training.")
    parser.add_argument("--threshold", type=float, default=0.8, help="Confidence of a kept pseudo-label.")
    arguments, recipe_flags = parser.parse_known_args()
    data_dir = data_dir_of("rmb", "rewardbench_like")
    started_at, commit = time.time(), git_commit()

    evaluation = EvaluationPrompts(read_evaluation_prompts(str(data_dir / REWARDBENCH_LIKE)))
    sample = sample_sources(INPUTS, data_dir, evaluation, arguments, random.Random(arguments.seed))
    train, held_out = split_by_prompt(sample, arguments.held_out_share, arguments.seed)
    folder = f"runs/real-ssrm-{arguments.seed}"
    files = write_sets(folder, {"train": train, "held out": held_out})

    seed = ("--seed", str(arguments.seed))
    run("ssrm/hide_labels.py", "--dataset", files["train"], "--output", f"{folder}/tenth", *seed)
    training = (
        *("--config", "bradley-terry-rm/smollm2-135m.yaml", "--model_name_or_path", arguments.model),
        *("--max_length", str(arguments.max_length), "--max_steps", str(arguments.max_steps), *seed, *recipe_flags),
    )
    run(
        *("ssrm/self_train.py", "--labelled", f"{folder}/tenth/labelled.jsonl"),
        *("--unlabelled", f"{folder}/tenth/unlabelled.jsonl", "--eval_dataset", files["held out"]),
        *("--output_dir", f"{folder}/self-training", "--rounds", str(arguments.rounds)),
        *("--threshold", str(arguments.threshold), "--recipe", RECIPE, *training),
    )
    report = ("--output_dir", f"{folder}/self-training", "--audit", f"{folder}/tenth-audit.jsonl")
    run("ssrm/report_rounds.py", *report)
    data = ("--dataset", files["train"], "--eval_dataset", files["held out"])
    run(RECIPE, *data, "--output_dir", f"{folder}/all", *training)

    models = {
        "a tenth of the labels": "self-training/round-0/model",
        "SSRM": f"self-training/round-{arguments.rounds}/model",
        "all labels": "all",
    }
    judged = {
        name: probabilities("scalar", f"{folder}/{model}", files["held out"], f"{folder}/scores.jsonl")
        for name, model in models.items()
    }
    judged["longer answer wins"] = longer_wins(held_out)
    table = {"held out": {name: numbers_of(probability, held_out) for name, probability in judged.items()}}
    print_table(table)
    outcomes = {name: metrics.pair_outcomes(probability - 0.5) for name, probability in judged.items()}
    leads = {
        f"{first} less {second}": paired_lead(outcomes[first], outcomes[second], held_out)
        for first, second in (("SSRM", "a tenth of the labels"), ("all labels", "a tenth of the labels"))
    }
    print_leads(leads)
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
