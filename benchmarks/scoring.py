"""Scoring with `useful_code/score.py` against the `text-classification` pipeline of Transformers, on the same pairs.

    python benchmarks/scoring.py --model models/smollm2-135m                          # prompt-heavy, 400 + 50 tokens
    python benchmarks/scoring.py --model models/smollm2-135m --data_set_name rows.jsonl.gz      # RewardBench's columns

Three sides take turns in one process, and must find the same scores: ours (each prompt once, longest first); the
pipeline at `--batch_size` conversations in data-set order, as reward-model evaluations are usually written; and the
pipeline with one conversation at a time. Ours gets a token budget that makes about as many forward passes as the
batched pipeline makes. The bound is what counting tokens promises: tokens that the batched pipeline computes, padding
included, over tokens that ours computes; the bound by operations counts attention too. Of a file, whole batches of
neighbouring rows are drawn, so that the pipeline meets the lengths that the file's order gives it.
"""

import argparse
import json
import sys
from functools import cache

import torch
from machine import memory_of_fresh_process, peak_gib, write_record
from operations import num_operations, packed_work, padded_work
from profiles import PROFILES, SEED, rows_asked_for
from sides import compare_sides
from transformers import AutoModelForSequenceClassification, pipeline

from useful_code.eval_reward_bench_bt import conversations, render_row, text_of
from useful_code.render import ensure_pad_token, read_template
from useful_code.reward_model import best_device, load_reward_model, load_tokenizer, weights_type
from useful_code.run_info import git_commit
from useful_code.scoring import Scorer, score_groups
from useful_code.user_errors import exit_cleanly

SIDES = ("ours", "pipeline", "pipeline_one_by_one")


def load_sides(model_path: str, rows: list[dict], batch_size: int, dtype: torch.dtype):
    """The call of each side, the work that it computes, and what gives our model (loaded once, when first asked)."""
    tokenizer = load_tokenizer(model_path)
    template = read_template(tokenizer)
    pad_token_id = ensure_pad_token(template)
    groups = [render_row(template, row, number) for number, row in enumerate(rows, start=1)]
    texts = [text_of(template, conversation) for row in rows for conversation in conversations(row)]
    lengths = [len(ids) for group in groups for ids in group]
    batches = [lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size)]
    work = {
        "ours": packed_work(groups),
        "pipeline": padded_work(batches),
        "pipeline_one_by_one": padded_work([[length] for length in lengths]),
    }

    @cache  # loaded when the side is called: the other side's memory is not counted
    def our_model():
        return load_reward_model(model_path, seed=SEED, dtype=dtype).to(best_device()).eval()

    @cache
    def their_pipeline():
        torch.manual_seed(SEED)  # a head that the checkpoint lacks is drawn as ours is
        model = AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=1, dtype=dtype)
        model.config.pad_token_id = pad_token_id
        return pipeline("text-classification", model=model.eval(), tokenizer=tokenizer, device=best_device())

    def score_ours() -> list[float]:
        scores: list[list[float]] = [[]] * len(groups)
        scorer = Scorer(our_model(), template, pad_token_id, "", -(-work["ours"][0] // len(batches)))
        for indices, rewards in score_groups(scorer, groups):
            for index, row in zip(indices, rewards, strict=True):
                scores[index] = [score for (score,) in row]
        return [score for row in scores for score in row]

    def score_theirs(size: int) -> list[float]:
        found = their_pipeline()(texts, batch_size=size, function_to_apply="none", add_special_tokens=False)
        return [result["score"] for result in found]

    calls = {
        "ours": score_ours,
        "pipeline": lambda: score_theirs(batch_size),
        "pipeline_one_by_one": lambda: score_theirs(1),
    }
    return calls, work, our_model


def compare(name: str, model_path: str, rows: list[dict], batch_size: int, turns: int, dtype: torch.dtype) -> dict:
    """Seconds of the three sides over the same rows, their ratios turn by turn, and the bound."""
    calls, work, our_model = load_sides(model_path, rows, batch_size, dtype)
    result = compare_sides(calls, work, lambda one: num_operations(our_model(), one), len(rows), turns, dtype)
    return {"data": name, "batch_size": batch_size, **result}


def measure_memory(side: str, model_path: str, rows: list[dict], batch_size: int, dtype: torch.dtype) -> float | None:
    """GiB: the most that this process held while one side scored the rows."""
    calls, _, _ = load_sides(model_path, rows, batch_size, dtype)
    calls[side]()
    return peak_gib()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2-135m", help="Directory of the model; its head may be new.")
    parser.add_argument("--data_set_name", default=None, help="File with the columns of RewardBench, else a profile.")
    parser.add_argument("--profile", choices=PROFILES, default="400+50", help="Mean tokens of prompt and response.")
    parser.add_argument("--num_pairs", type=int, default=32, help="Pairs to score.")
    parser.add_argument("--batch_size", type=int, default=8, help="Conversations per batch of the pipeline; even.")
    parser.add_argument("--turns", type=int, default=3, help="Turns per side, at least 3.")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="Of the weights.")
    parser.add_argument("--no_memory", action="store_true", help="Leave the peak memory out.")
    parser.add_argument("--memory_of", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--output", default=None, help="JSON file to write.")
    arguments = parser.parse_args()
    name, rows = rows_asked_for(arguments)
    dtype = weights_type(arguments.dtype, best_device())
    if arguments.memory_of:
        print(measure_memory(arguments.memory_of, arguments.model, rows, arguments.batch_size, dtype))
        return
    commit = git_commit()
    result = compare(name, arguments.model, rows, arguments.batch_size, arguments.turns, dtype)
    if not arguments.no_memory:
        flags = sys.argv[1:]
        result["peak_memory_gib"] = {
            side: memory_of_fresh_process(__file__, *flags, "--memory_of", side) for side in SIDES
        }
    print(json.dumps(result, indent=1))
    if arguments.output:
        write_record(arguments.output, commit, [result])


if __name__ == "__main__":
    exit_cleanly(main)
