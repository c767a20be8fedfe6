"""Judging pairs in both orders: ours against plain Transformers on the same texts, with the same model.

    python benchmarks/both_orders.py --model models/smollm2-135m                       # prompt-heavy, 400 + 50 tokens
    python benchmarks/both_orders.py --model models/smollm2-135m --data_set_name rows.jsonl.gz  # RewardBench's columns

Four sides take turns in one process, and must find the same log-odds: ours (both orders of a pair in one group, whose
context is computed once, longest first); padded batches of `--batch_size` pairs, both orders of each, in the order of
the data; two forward passes a pair, one per order; and the same as the original script writes it, with logits of the
whole vocabulary at every token, where the others ask for those of the last token alone. Ours gets a token budget that
makes about as many forward passes as the batched baseline. The bound is that baseline's tokens, padding included, over
ours.
"""

import argparse
import json
from pathlib import Path

import torch
from machine import write_record
from operations import num_operations, packed_work, padded_work
from profiles import PROFILES, neighbouring_rows, synthetic_rows
from sides import compare_sides
from transformers import AutoModelForCausalLM

from useful_code.pair_prompt import read_verdicts
from useful_code.pair_scoring import comparison_group
from useful_code.render import ensure_pad_token, read_template
from useful_code.reward_model import best_device, load_tokenizer, weights_type
from useful_code.rewardbench_rows import load_rows
from useful_code.run_info import git_commit
from useful_code.scoring import Scorer, score_groups
from useful_code.shared_prefix import pad
from useful_code.user_errors import UserError, exit_cleanly
from useful_code.verdict_model import load_verdict_model


def compare(name: str, model_path: str, rows: list[dict], batch_size: int, turns: int, dtype: torch.dtype) -> dict:
    """Seconds of the four sides over the same rows, their ratios turn by turn, and the bound."""
    template = read_template(load_tokenizer(model_path))
    pad_token_id = ensure_pad_token(template)
    verdicts = read_verdicts(template)
    device = best_device()
    plain = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype).to(device).eval()
    ours_model = load_verdict_model(model_path, dtype=dtype).to(device).eval()

    def scorer(budget: int) -> Scorer:
        return Scorer(ours_model, template, pad_token_id, "", budget, verdicts)

    groups = [
        comparison_group(scorer(0), [{"role": "user", "content": row["prompt"]}], row["chosen"], row["rejected"])
        for row in rows
    ]
    batches = [groups[i : i + batch_size] for i in range(0, len(groups), batch_size)]
    lengths = [[len(ids) for group in batch for ids in group] for batch in batches]
    work = {
        "ours": packed_work(groups),
        "padded": padded_work(lengths),
        "one_by_one": padded_work([[length] for batch in lengths for length in batch]),
    }
    work["as_the_original"] = work["one_by_one"]
    ours = scorer(-(-work["ours"][0] // len(batches)))

    def judge_ours() -> list[float]:
        found: list[list[float]] = [[]] * len(groups)
        for indices, numbers in score_groups(ours, groups):
            for index, rows_of_group in zip(indices, numbers, strict=True):
                found[index] = [a - b for a, b in rows_of_group]
        return [value for pair in found for value in pair]

    @torch.inference_mode()
    def judge_plainly(parts: list[list], logits_to_keep: int = 1) -> list[float]:
        found = []
        for part in parts:
            batch = {key: value.to(device) for key, value in pad(part, pad_token_id, side="left").items()}
            logits = plain(**batch, logits_to_keep=logits_to_keep, use_cache=False).logits[:, -1]  # (S, V)
            a, b = (logits[:, token_id].float() for token_id in verdicts.token_ids[:2])
            found += (a - b).tolist()
        return found

    alone = [[[ids]] for group in groups for ids in group]
    calls = {
        "ours": judge_ours,
        "padded": lambda: judge_plainly(batches),
        "one_by_one": lambda: judge_plainly(alone),
        "as_the_original": lambda: judge_plainly(alone, logits_to_keep=0),  # 0: of all tokens
    }
    result = compare_sides(calls, work, lambda one: num_operations(plain, one), len(rows), turns, dtype)
    return {"data": name, "batch_size": batch_size, **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2-135m", help="Directory of a causal language model.")
    parser.add_argument("--data_set_name", default=None, help="File with the columns of RewardBench, else a profile.")
    parser.add_argument("--profile", choices=PROFILES, default="400+50", help="Mean tokens of prompt and response.")
    parser.add_argument("--num_pairs", type=int, default=32, help="Pairs to judge.")
    parser.add_argument("--batch_size", type=int, default=4, help="Pairs per padded batch, two sequences each.")
    parser.add_argument("--turns", type=int, default=3, help="Turns per side, at least 3.")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="Of the weights.")
    parser.add_argument("--output", default=None, help="JSON file to write.")
    arguments = parser.parse_args()
    if arguments.turns < 3:
        raise UserError("--turns must be at least 3: a median of fewer says little")
    if not 1 <= arguments.batch_size <= arguments.num_pairs:
        raise UserError("--batch_size must be at least 1, and --num_pairs must fill at least one batch")
    if arguments.data_set_name:
        name = Path(arguments.data_set_name).name
        rows = neighbouring_rows(load_rows(arguments.data_set_name), arguments.num_pairs, arguments.batch_size)
    else:
        name = arguments.profile
        rows = synthetic_rows(*PROFILES[name], arguments.num_pairs)
    commit = git_commit()
    dtype = weights_type(arguments.dtype, best_device())
    result = compare(name, arguments.model, rows, arguments.batch_size, arguments.turns, dtype)
    print(json.dumps(result, indent=1))
    if arguments.output:
        write_record(arguments.output, commit, [result])


if __name__ == "__main__":
    exit_cleanly(main)
