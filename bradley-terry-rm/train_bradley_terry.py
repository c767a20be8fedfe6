r"""Bradley-Terry reward model: one number per answer; P(chosen beats rejected) = sigmoid(r_chosen - r_rejected).

    loss = mean over pairs of softplus(-(r_chosen - r_rejected))            Bradley & Terry 1952; RLHF Workflow, Sec. 2

On a CPU, on one GPU, on eight GPUs with ZeRO-3 (from the root of the repository):

    python bradley-terry-rm/train_bradley_terry.py --config bradley-terry-rm/smollm2-135m.yaml --dataset pairs/hh
    accelerate launch --config_file configs/one_gpu.yaml bradley-terry-rm/train_bradley_terry.py \
        --config bradley-terry-rm/gemma-2b.yaml --dataset hendrydong/preference_700K
    accelerate launch --config_file configs/eight_gpu.yaml bradley-terry-rm/train_bradley_terry.py \
        --config bradley-terry-rm/llama3-8b.yaml --dataset hendrydong/preference_700K \
        --deepspeed bradley-terry-rm/zero3.json

Input: rows of chosen/rejected chats (useful_code/chat_pairs.py). Output: a one-label sequence classifier that plain
Transformers loads, with run.json, report.html and refused_rows.jsonl. Edit first: `per_pair_loss`, then `load_pairs`.

Shapes: B pairs on this device, S = 2B sequences, T tokens of the packed row.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import EvalPrediction, set_seed
from trl import ModelConfig

from useful_code.chat_pairs import check_pair, is_tie, preferred_first
from useful_code.read_rows import load_checked
from useful_code.reasons import RowRefused
from useful_code.render import Template, render_within
from useful_code.shared_prefix import default_kernel, pack, pad
from useful_code.training.arguments import DataArguments, RecipeArguments, parse_command_line
from useful_code.training.checkpoints import choose_checkpoint
from useful_code.training.data import load_train_and_held_out
from useful_code.training.parallelism import check_parallelism, finish
from useful_code.training.recipe_trainer import RecipeTrainer
from useful_code.training.record import write_training_record
from useful_code.training.save_load import WholeCheckpoints, save_and_check
from useful_code.training.score_before import ScoreBefore
from useful_code.training.trainable import load_template, load_trainable_reward_model
from useful_code.user_errors import UserError, exit_cleanly


@dataclass
class Arguments(DataArguments):
    """What belongs to this method. Parsed beside it: `TrainArguments` (Transformers) and `ModelConfig` (TRL)."""

    max_length: int = field(
        default=4096, metadata={"help": "Tokens. A pair with a longer side is dropped and counted, never cut."}
    )
    margin: str = field(
        default="none",
        metadata={
            "help": "none; subtract: softplus(-(delta - m)), as in Llama 2; scale: m * softplus(-delta), as in "
            "HelpSteer2-Preference. m is the row's margin, else chosen_score - rejected_score.",
            "choices": ["none", "subtract", "scale"],
        },
    )
    center_rewards_coefficient: float = field(
        default=0.0, metadata={"help": "Weight of mean((r_chosen + r_rejected)^2), arXiv 2312.09244 Eq. 2; try 0.01."}
    )
    label_smoothing: float = field(default=0.0, metadata={"help": "Assumed share of flipped labels, 0 to below 0.5."})
    ties: str = field(
        default="drop",
        metadata={
            "help": "What a tied pair does: drop; soft: a label of 0.5; rao_kupper or davidson: a three-way law.",
            "choices": ["drop", "soft", "rao_kupper", "davidson"],
        },
    )
    tie_share: float | None = field(
        default=None,
        metadata={"help": "P(tie) of two equal answers in the three-way laws. Default: (tied rows + 1) / (rows + 2)."},
    )
    max_tokens_per_batch: int | None = field(
        default=None,
        metadata={"help": "Fill each forward pass up to so many tokens instead of per_device_train_batch_size pairs."},
    )
    score_before: bool = field(default=False, metadata={"help": "Score the held-out pairs before training as well."})
    train_last_layers: int | None = field(
        default=None, metadata={"help": "Train only the last so many decoder layers, the final norm and the head."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError("--label_smoothing must be at least 0 and below 0.5")
        if self.center_rewards_coefficient < 0:
            raise UserError("--center_rewards_coefficient must not be negative")
        if self.tie_share is not None and not 0 <= self.tie_share < 1:
            raise UserError("--tie_share must be at least 0 and below 1")
        if self.ties in ("rao_kupper", "davidson") and (self.margin != "none" or self.label_smoothing):
            raise UserError(f"--ties {self.ties} has a likelihood of its own: leave margin and label_smoothing out")


@dataclass
class TrainArguments(RecipeArguments):
    """Defaults of RLHF Workflow (arXiv 2405.07863) for an 8B model: 512 pairs per step on 8 GPUs, one epoch."""

    output_dir: str = field(default="runs/bradley-terry", metadata={"help": "Directory to write."})
    learning_rate: float = field(default=2e-6, metadata={"help": "Peak learning rate."})
    num_train_epochs: float = field(default=1, metadata={"help": "Passes over the training pairs."})
    per_device_train_batch_size: int = field(default=1, metadata={"help": "Pairs per device and forward pass."})
    gradient_accumulation_steps: int = field(default=64, metadata={"help": "Forward passes per optimizer step."})
    weight_decay: float = field(default=0.001, metadata={"help": "Decoupled weight decay."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Shape of the learning rate over time."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Warm-up: steps, or below 1 the share of all steps."})
    logging_steps: float = field(default=1, metadata={"help": "Optimizer steps between two lines of the log."})


# --- the method: tensors in, one loss per pair out ---


def bradley_terry_loss(
    delta: torch.Tensor,  # (B,) r_chosen - r_rejected, float32
    label: torch.Tensor,  # (B,) probability that chosen is preferred
    smoothing: float = 0.0,
) -> torch.Tensor:
    """-[p log sigmoid(delta) + (1 - p) log sigmoid(-delta)] with p = label, smoothed towards the other side: (B,)."""
    p = label * (1 - smoothing) + (1 - label) * smoothing
    return p * F.softplus(-delta) + (1 - p) * F.softplus(delta)  # softplus(-x) = -log sigmoid(x), never overflows


def rao_kupper_loss(delta: torch.Tensor, label: torch.Tensor, tie: torch.Tensor, tie_share: float) -> torch.Tensor:
    """Rao & Kupper 1967, used by BTT (arXiv 2410.05328): P(win) = sigmoid(delta - eta), eta = log theta.

    P(tie) = (theta^2 - 1) sigmoid(delta - eta) sigmoid(-delta - eta); for equal answers it is tie_share, which gives
    theta = (1 + tie_share) / (1 - tie_share). `tie` (B,) is True where annotators called a tie. Returns -log P of what
    was observed: (B,).
    """
    eta = math.log1p(tie_share) - math.log1p(-tie_share)
    log_win, log_loss = -F.softplus(eta - delta), -F.softplus(eta + delta)
    log_factor = math.log(math.expm1(2 * eta)) if eta > 0 else -math.inf
    return -torch.where(tie, log_factor + log_win + log_loss, label * log_win + (1 - label) * log_loss)


def davidson_loss(delta: torch.Tensor, label: torch.Tensor, tie: torch.Tensor, tie_share: float) -> torch.Tensor:
    """Davidson 1970: P(win), P(loss), P(tie) = softmax(delta/2, -delta/2, log nu), nu / (2 + nu) = tie_share: (B,)."""
    log_nu = math.log(2 * tie_share / (1 - tie_share)) if tie_share > 0 else -math.inf
    logits = torch.stack((delta / 2, -delta / 2, torch.full_like(delta, log_nu)), dim=-1)  # (B, 3)
    log_win, log_loss, log_tie = logits.log_softmax(-1).unbind(-1)  # (B,) each
    return -torch.where(tie, log_tie, label * log_win + (1 - label) * log_loss)


def per_pair_loss(chosen_rewards: torch.Tensor, rejected_rewards: torch.Tensor, batch: Mapping, arguments: Arguments):
    """The loss of every pair (B,) from its two rewards (B,), in float32; `batch` has label, margin and tie (B,)."""
    delta = chosen_rewards.float() - rejected_rewards.float()
    if arguments.ties == "rao_kupper":
        loss = rao_kupper_loss(delta, batch["label"], batch["tie"], arguments.tie_share)
    elif arguments.ties == "davidson":
        loss = davidson_loss(delta, batch["label"], batch["tie"], arguments.tie_share)
    elif arguments.margin == "subtract":
        loss = bradley_terry_loss(delta - batch["margin"], batch["label"], arguments.label_smoothing)
    else:
        loss = bradley_terry_loss(delta, batch["label"], arguments.label_smoothing)
        if arguments.margin == "scale":
            loss = batch["margin"] * loss
    centre = (chosen_rewards + rejected_rewards).float().square()
    return loss + arguments.center_rewards_coefficient * centre


# --- data ---


def load_pairs(source: str, split: str | None, template: Template, arguments: Arguments, refused_path: Path | None):
    """Checked pairs with `ids` [chosen, rejected], `label`, `tie` and perhaps `margin`; and what was read."""

    def check_and_render(row: Any) -> dict:
        pair = preferred_first(check_pair(row))
        pair["ids"] = [render_within(template, pair[side], arguments.max_length) for side in ("chosen", "rejected")]
        pair["tie"] = is_tie(pair)
        pair["label"] = 0.5 if pair["tie"] else float(pair.get("label", 1.0))
        if arguments.margin != "none" and "margin" not in pair:
            if "chosen_score" not in pair or "rejected_score" not in pair:
                raise RowRefused("no_margin", "--margin needs margin, or chosen_score and rejected_score")
            pair["margin"] = max(0.0, pair["chosen_score"] - pair["rejected_score"])
        if pair["tie"] and arguments.ties == "drop":
            raise RowRefused("tie", "--ties drop")
        return pair

    return load_checked(source, check_and_render, refused_path, split)


def collate_pairs(pairs: list[dict], pad_token_id: int | None) -> dict:
    """A batch, packed when `pad_token_id` is None, else padded. The Trainer takes its size from the first entry."""
    groups = [pair["ids"] for pair in pairs]
    return {
        "labels": torch.tensor([pair["label"] for pair in pairs]),  # (B,)
        "margin": torch.tensor([float(pair.get("margin", 0.0)) for pair in pairs]),  # (B,)
        "tie": torch.tensor([pair["tie"] for pair in pairs]),  # (B,)
        **(pack(groups, default_kernel()) if pad_token_id is None else pad(groups, pad_token_id)),
    }


def held_out_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy and mean margin of the pairs that have a winner; equal rewards count as wrong."""
    rewards, labels = prediction.predictions, prediction.label_ids  # (N, 2), (N,)
    margins = (rewards[:, 0] - rewards[:, 1])[labels > 0.5]
    return {
        "accuracy": float((margins > 0).mean()),
        "margin": float(margins.mean()),
        "equal_rewards": float((margins == 0).mean()),
    }


class BradleyTerryTrainer(RecipeTrainer):
    """The loss of this method, its mean taken over all pairs of an optimizer step on all processes."""

    def __init__(self, method: Arguments, **kwargs):
        super().__init__(method, compute_metrics=held_out_metrics, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        batch = {"label": inputs["labels"], "margin": inputs["margin"], "tie": inputs["tie"]}
        inputs = {name: value for name, value in inputs.items() if name not in ("labels", "margin", "tie")}
        rewards = model(**inputs).logits[:, 0]  # (S,)
        chosen_rewards, rejected_rewards = rewards[0::2], rewards[1::2]  # (B,)
        losses = per_pair_loss(chosen_rewards, rejected_rewards, batch, self.method)  # (B,)
        loss = self.mean_over_step(losses, num_items_in_batch)
        if model.training:
            delta = (chosen_rewards - rejected_rewards).detach()
            self.step_means.add(accuracy=(delta > 0).float(), margin=delta)
        return (loss, {"rewards": torch.stack((chosen_rewards, rejected_rewards), -1)}) if return_outputs else loss


# --- the run ---


def main() -> None:
    started_at = time.time()
    arguments, train_arguments, model_arguments = parse_command_line((Arguments, TrainArguments, ModelConfig))
    checkpoint = choose_checkpoint(train_arguments.resume_from_checkpoint, train_arguments.output_dir)
    set_seed(train_arguments.seed)

    template, pad_token_id = load_template(model_arguments, arguments.chat_template_path, arguments.trust_remote_code)
    data = load_train_and_held_out(
        lambda source, split, refused: load_pairs(source, split, template, arguments, refused),
        arguments,
        train_arguments,
    )
    if arguments.tie_share is None:
        arguments.tie_share = (sum(pair["tie"] for pair in data.train) + 1) / (len(data.train) + 2)  # never 0 or 1

    model = load_trainable_reward_model(
        model_arguments, train_arguments.seed, arguments.train_last_layers, arguments.trust_remote_code
    )
    model.config.pad_token_id = pad_token_id
    trainer = BradleyTerryTrainer(
        method=arguments,
        model=model,
        args=train_arguments,
        train_dataset=data.train,
        eval_dataset=data.held_out,
        processing_class=template.tokenizer,
        data_collator=partial(collate_pairs, pad_token_id=None if model.shares_prefix else pad_token_id),
        callbacks=[WholeCheckpoints(data.description, checkpoint)],
    )
    parallelism = check_parallelism(trainer)
    before = ScoreBefore(trainer, data.held_out, arguments.score_before)
    trainer.train(resume_from_checkpoint=checkpoint)
    after = trainer.predict(data.held_out).predictions  # (N, 2)

    difference = save_and_check(trainer, model_arguments, data.held_out[:4], arguments.trust_remote_code)
    write_training_record(
        trainer,
        method="Bradley-Terry",
        arguments={**asdict(arguments), **asdict(model_arguments), **train_arguments.to_dict()},
        data=data,
        rewards_before=before.predictions,
        rewards_after=after,
        started_at=started_at,
        parallelism=parallelism,
        reload_difference=difference,
    )
    finish(trainer)


if __name__ == "__main__":
    exit_cleanly(main)
