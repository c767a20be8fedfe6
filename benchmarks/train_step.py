"""Training step of bradley-terry-rm against `trl.RewardTrainer`: the same model, pairs, batch and optimizer.

    python benchmarks/train_step.py --model models/smollm2-135m                             # both length profiles
    python benchmarks/train_step.py --model models/smollm2-135m --pairs pairs/rmb.jsonl     # the same on real rows

The two sides take turns in one process, a few steps each on pairs of their own; `ratio` compares the time of all
timed steps, `ratio_of_steps` each step with its twin (lowest, median, highest). Peak memory is measured in a fresh
process per side. The bound is what counting tokens promises: tokens that TRL computes (both sides of a pair padded to
the longest of the batch) over tokens that we compute (each prompt once, no padding).
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from load_recipe import load_recipe
from machine import matmul_flops, memory_of_fresh_process, peak_gib, wait_for_gpu, write_record
from operations import Work, num_operations, packed_work, padded_work
from profiles import PROFILES, draw_length
from transformers import AutoConfig, TrainerCallback
from trl import RewardConfig, RewardTrainer

from useful_code.chat_pairs import check_pair
from useful_code.read_rows import load_checked
from useful_code.render import ensure_pad_token, read_template, render_within
from useful_code.reward_model import load_reward_model, load_tokenizer
from useful_code.run_info import git_commit
from useful_code.user_errors import UserError, exit_cleanly

recipe = load_recipe("bradley-terry-rm/train_bradley_terry.py")

SEED = 0


@dataclass
class Setting:
    """What both sides train, and how."""

    model: str  # directory
    batch_size: int  # pairs
    bf16: bool  # compute in bfloat16 over float32 weights


class StepTimes(TrainerCallback):
    """Seconds of every optimizer step, and processor seconds in the system; the first step of each turn left out."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.system_seconds: list[float] = []
        self.start = (0.0, 0.0)

    def on_step_begin(self, args, state, control, **kwargs):
        wait_for_gpu()
        self.start = (time.perf_counter(), os.times().system)

    def on_step_end(self, args, state, control, **kwargs):
        wait_for_gpu()
        if state.global_step > 1:
            self.seconds.append(time.perf_counter() - self.start[0])
            self.system_seconds.append(os.times().system - self.start[1])


def synthetic_pairs(profile: str, num_pairs: int, model_path: str) -> list[dict]:
    """Random ids of the model's vocabulary; lengths are lognormal with the means of the profile."""
    rng = random.Random(SEED)
    prompt_mean, response_mean = PROFILES[profile]
    vocab_size = AutoConfig.from_pretrained(model_path).vocab_size

    def ids(mean: int) -> list[int]:
        return [rng.randrange(20, vocab_size) for _ in range(draw_length(rng, mean))]

    pairs = []
    for _ in range(num_pairs):
        prompt = ids(prompt_mean)
        pairs.append({"ids": [prompt + ids(response_mean), prompt + ids(response_mean)]})
    return pairs


def real_pairs(path: str, model: str, num_pairs: int, max_length: int) -> list[dict]:
    template = read_template(load_tokenizer(model))

    def check(row):
        pair = check_pair(row)
        return {"ids": [render_within(template, pair[side], max_length) for side in ("chosen", "rejected")]}

    rows, _ = load_checked(path, check)
    if len(rows) < num_pairs:
        raise UserError(f"{path} has {len(rows)} usable pairs; {num_pairs} are needed: give fewer --turns or --steps")
    return random.Random(SEED).sample(rows, num_pairs)


def make_trainer(side: str, setting: Setting, pairs: list[dict], max_steps: int, folder: str):
    """A trainer that runs `max_steps` optimizer steps over `pairs` in order."""
    shared = {
        "output_dir": folder,
        "per_device_train_batch_size": setting.batch_size,
        "gradient_accumulation_steps": 1,
        "max_steps": max_steps,
        "learning_rate": 1e-5,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "bf16": setting.bf16,
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
        "seed": SEED,
    }
    tokenizer = load_tokenizer(setting.model)
    pad_token_id = ensure_pad_token(read_template(tokenizer))
    if side == "trl":
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(setting.model, num_labels=1, dtype=torch.float32)
        model.config.pad_token_id = pad_token_id
        rows = [{"chosen_ids": list(pair["ids"][0]), "rejected_ids": list(pair["ids"][1])} for pair in pairs]
        args = RewardConfig(
            **shared, use_cpu=not torch.cuda.is_available(), gradient_checkpointing=False, max_length=None
        )
        return RewardTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    model = load_reward_model(setting.model)
    model.config.pad_token_id = pad_token_id
    for pair in pairs:
        pair |= {"label": 1.0, "tie": False}
    return recipe.BradleyTerryTrainer(
        method=recipe.Arguments(dataset="-"),
        model=model,
        args=recipe.TrainArguments(**shared),
        train_dataset=pairs,
        processing_class=tokenizer,
        data_collator=partial(recipe.collate_pairs, pad_token_id=None if model.shares_prefix else pad_token_id),
    )


def count_work(pairs: list[dict], batch_size: int) -> dict[str, Work]:
    """Tokens, and pairs of query and key, that each side computes; TRL's padding is included."""
    batches = [pairs[i : i + batch_size] for i in range(0, len(pairs) - batch_size + 1, batch_size)]
    return {
        "ours": packed_work([pair["ids"] for batch in batches for pair in batch]),
        "trl": padded_work([[len(ids) for pair in batch for ids in pair["ids"]] for batch in batches]),
    }


def compare(name: str, setting: Setting, pairs: list[dict], turns: int, steps: int, memory: bool) -> dict:
    times = {"ours": StepTimes(), "trl": StepTimes()}
    trainers, peaks = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for side in times:
            trainers[side] = make_trainer(side, setting, pairs, steps + 1, folder)
            trainers[side].add_callback(times[side])
        datasets = {side: trainer.train_dataset for side, trainer in trainers.items()}
        # Every turn meets pairs of its own; its first step is not timed.
        timed, size = [], setting.batch_size * (steps + 1)
        for turn in range(turns):
            start = turn * size
            timed += pairs[start + setting.batch_size : start + size]
            for side in ("ours", "trl") if turn % 2 == 0 else ("trl", "ours"):
                rows = range(start, start + size)
                trainers[side].train_dataset = (
                    datasets[side].select(rows) if side == "trl" else [datasets[side][i] for i in rows]
                )
                trainers[side].train()
            peaks.append(matmul_flops(dtype=torch.bfloat16 if setting.bf16 else torch.float32))
    # Step k of a turn meets the same pairs on both sides, so the ratio is taken step by step.
    work = count_work(timed, setting.batch_size)
    seconds = {side: sum(times[side].seconds) for side in times}
    ratio, bound = seconds["trl"] / seconds["ours"], work["trl"][0] / work["ours"][0]
    tokens_per_second = {side: work[side][0] / seconds[side] for side in times}
    step_ratios = [b / a for a, b in zip(times["ours"].seconds, times["trl"].seconds, strict=True)]
    operations = {side: 3 * num_operations(trainers["ours"].model, work[side]) for side in times}
    peak = statistics.median(peaks)
    result = {
        "profile": name,
        "pairs_per_step": setting.batch_size,
        "bf16": setting.bf16,
        "pairs_per_second": {side: len(timed) / seconds[side] for side in times},
        "tokens_per_second": tokens_per_second,
        "ratio": ratio,
        "ratio_of_steps": {
            "lowest": min(step_ratios),
            "median": statistics.median(step_ratios),
            "highest": max(step_ratios),
        },
        "bound": bound,
        "share_of_bound": ratio / bound,
        "bound_by_operations": operations["trl"] / operations["ours"],
        "matmul_gflops": peak / 1e9,
        "share_of_matmul_peak": {side: operations[side] / seconds[side] / peak for side in times},
        # Handing out memory pages: it grows with the activations, and no counting of tokens foresees it.
        "system_seconds_per_step": {side: statistics.fmean(times[side].system_seconds) for side in times},
        "seconds_per_step": {side: statistics.fmean(times[side].seconds) for side in times},
        "timed_steps": len(times["ours"].seconds),
    }
    if memory:
        flags = ("--model", setting.model, "--batch_size", str(setting.batch_size), "--profile", name)
        flags += ("--bf16",) if setting.bf16 else ()
        result["peak_memory_gib"] = {
            side: memory_of_fresh_process(__file__, *flags, "--memory_of", side) for side in times
        }
    return result


def measure_memory(side: str, profile: str, setting: Setting, num_steps: int = 2) -> float | None:
    """GiB: the most that this process held during a few steps."""
    pairs = synthetic_pairs(profile, num_steps * setting.batch_size, setting.model)
    with tempfile.TemporaryDirectory() as folder:
        make_trainer(side, setting, pairs, num_steps, folder).train()
    return peak_gib()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2-135m", help="Directory of the model to train.")
    parser.add_argument("--profile", choices=[*PROFILES, "all"], default="all", help="Length profile.")
    parser.add_argument("--pairs", default=None, help="File of real pairs to use instead of the profiles.")
    parser.add_argument("--max_length", type=int, default=1024, help="Tokens; longer real pairs are left out.")
    parser.add_argument("--batch_size", type=int, default=4, help="Pairs per step.")
    parser.add_argument("--bf16", action="store_true", help="Compute in bfloat16 over float32 weights, as on GPUs.")
    parser.add_argument("--turns", type=int, default=4, help="Turns per side, at least 3.")
    parser.add_argument("--steps", type=int, default=3, help="Timed steps per turn.")
    parser.add_argument("--no_memory", action="store_true", help="Leave the peak memory out.")
    parser.add_argument("--memory_of", choices=["ours", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--output", default=None, help="JSON file to write.")
    arguments = parser.parse_args()
    setting = Setting(arguments.model, arguments.batch_size, arguments.bf16)
    if arguments.memory_of:
        print(measure_memory(arguments.memory_of, arguments.profile, setting))
        return
    if arguments.turns < 3:
        raise UserError("--turns must be at least 3: a median of fewer says little")
    if setting.batch_size < 1:
        raise UserError(f"--batch_size is {setting.batch_size}; it must be at least 1")
    num_pairs = setting.batch_size * (arguments.steps + 1) * arguments.turns
    if arguments.pairs:
        work = {
            Path(arguments.pairs).name: real_pairs(arguments.pairs, arguments.model, num_pairs, arguments.max_length)
        }
    else:
        names = PROFILES if arguments.profile == "all" else [arguments.profile]
        work = {name: synthetic_pairs(name, num_pairs, arguments.model) for name in names}
    results: list[dict] = []
    commit = git_commit()
    for name, pairs in work.items():
        memory = not arguments.no_memory and not arguments.pairs
        results.append(compare(name, setting, pairs, arguments.turns, arguments.steps, memory))
        print(json.dumps(results[-1], indent=1), flush=True)
        if arguments.output:  # after every profile: an interrupted run keeps what is measured
            write_record(arguments.output, commit, results)


if __name__ == "__main__":
    exit_cleanly(main)
