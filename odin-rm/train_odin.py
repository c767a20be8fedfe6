r"""ODIN reward model: a length head takes up what length explains, and only the quality head beside it is kept.

    loss = mean over pairs of softplus(-(r_chosen - r_rejected)), r = r_Q + r_L                arXiv 2402.07319, Eq. 8
           + lambda_L (L_L of chosen + L_L of rejected) + lambda_O |w_Q . w_L|                       Eq. 9, 10 and 11
    L_L  = |rho(r_Q, length)| - rho(r_L, length);  r_Q = h . w_Q, r_L = h . w_L, rows of unit length

On a CPU, on one GPU, on eight GPUs with ZeRO-3 (from the root of the repository):

    python odin-rm/train_odin.py --config odin-rm/smollm2-135m.yaml --dataset pairs/hh
    accelerate launch --config_file configs/one_gpu.yaml odin-rm/train_odin.py \
        --config odin-rm/gemma-2b.yaml --dataset hendrydong/preference_700K
    accelerate launch --config_file configs/eight_gpu.yaml odin-rm/train_odin.py \
        --config odin-rm/llama3-8b.yaml --dataset hendrydong/preference_700K --deepspeed odin-rm/zero3.json

Input: rows of chosen/rejected chats (useful_code/chat_pairs.py). Output: the quality head as a one-label sequence
classifier that plain Transformers loads, the other heads beside it, run.json, report.html and refused_rows.jsonl.
To adapt, edit first: `length_loss`, then nuisances.py.

Shapes: B pairs on this device, N on all, S = 2B sequences, K heads: quality first, then K - 1 nuisances, length first.
"""

import time
from dataclasses import asdict, dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from batch_correlations import MIN_POINTS, Moments, MomentsInCheckpoints, correlation, gather_rows, smoothed_size
from length_table import CURVES, head_numbers, head_tables
from normalised_heads import load_trainable_heads, save_quality_head
from nuisances import COUNTS, constant_traits, head_names, trait_counter
from transformers import EvalPrediction, set_seed
from trl import ModelConfig

from useful_code.chat_pairs import check_pair, is_tie, preferred_first
from useful_code.metrics import pearson_correlation
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
from useful_code.training.save_load import WholeCheckpoints
from useful_code.training.score_before import ScoreBefore
from useful_code.training.trainable import load_template
from useful_code.user_errors import UserError, exit_cleanly


@dataclass
class Arguments(DataArguments):
    """What belongs to this method. Parsed beside it: `TrainArguments` (Transformers) and `ModelConfig` (TRL)."""

    max_length: int = field(
        default=2048, metadata={"help": "Tokens. A pair with a longer side is dropped and counted, never cut."}
    )
    length_weight: float = field(default=1.0, metadata={"help": "Weight of the length terms, lambda_L of Eq. 11."})
    orthogonality_weight: float = field(default=1.0, metadata={"help": "Weight of |w_Q . w_L|, lambda_O of Eq. 11."})
    further_heads: list[str] = field(
        default_factory=list,
        metadata={"help": f"More nuisances, each with a head like the one of length: {', '.join(COUNTS)}."},
    )
    correlation_pairs: int = field(
        default=128,
        metadata={
            "help": "Pairs that a correlation is over, the paper's batch: a forward pass with fewer, on all processes "
            "together, goes on with fading moments of earlier ones; one with as many or more stands alone."
        },
    )
    max_tokens_per_batch: int | None = field(
        default=None,
        metadata={"help": "Fill each forward pass up to so many tokens instead of per_device_train_batch_size pairs."},
    )
    score_before: bool = field(default=False, metadata={"help": "Score the held-out pairs before training as well."})
    train_last_layers: int | None = field(
        default=None, metadata={"help": "Train only the last so many decoder layers, the final norm and the heads."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.length_weight < inf and 0 <= self.orthogonality_weight < inf):
            raise UserError("--length_weight and --orthogonality_weight must be finite and not negative")
        if unknown := set(self.further_heads) - set(COUNTS):
            raise UserError(f"--further_heads {' '.join(sorted(unknown))}: choose from {', '.join(COUNTS)}")
        if len(set(self.further_heads)) < len(self.further_heads):
            raise UserError("--further_heads names a head twice")
        if self.correlation_pairs < MIN_POINTS:
            raise UserError(f"--correlation_pairs must be at least {MIN_POINTS}: fewer pairs have no correlation")


@dataclass
class TrainArguments(RecipeArguments):
    """Defaults of the paper (7B model, 22,065 pairs): 128 pairs per step on 8 GPUs, three epochs, no warm-up."""

    output_dir: str = field(default="runs/odin", metadata={"help": "Directory to write."})
    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate; the paper tried 1, 3 and 5e-5."})
    num_train_epochs: float = field(default=3, metadata={"help": "Passes over the training pairs."})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "Pairs per device and forward pass."})
    gradient_accumulation_steps: int = field(default=4, metadata={"help": "Forward passes per optimizer step."})
    weight_decay: float = field(default=0.1, metadata={"help": "Decoupled weight decay, of the authors' script."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Shape of the learning rate over time."})
    logging_steps: float = field(default=1, metadata={"help": "Optimizer steps between two lines of the log."})


# --- the method: tensors in, losses out, all in float32 ---


def ranking_losses(
    rewards: torch.Tensor,  # (B, 2, K) chosen, rejected
    label: torch.Tensor,  # (B,) probability that chosen is preferred
) -> torch.Tensor:
    """Bradley-Terry on the sum of all heads, pair by pair: (B,). Eq. 8."""
    chosen, rejected = rewards.float().sum(-1).unbind(1)  # (B,) each
    delta = chosen - rejected
    return label * F.softplus(-delta) + (1 - label) * F.softplus(delta)  # softplus(-x) = -log sigmoid(x)


def head_correlations(
    rewards: torch.Tensor,  # (N, 2, K)
    traits: torch.Tensor,  # (N, 2, K - 1)
    past: Moments | None = None,
    window: float = 0,
) -> tuple[torch.Tensor, Moments]:
    """Of chosen and of rejected answers, how quality and how each nuisance head follow its trait: (2, 2, K - 1)."""
    quality, nuisances = rewards[..., :1].expand_as(traits), rewards[..., 1:]  # (N, 2, K - 1) each
    return correlation(torch.stack((quality, nuisances), 2), torch.stack((traits, traits), 2), past, window)


def length_loss(correlations: torch.Tensor, noise: float = 0.0) -> torch.Tensor:
    """L_L of chosen and rejected and of every nuisance, summed: at least -1 for each. Eq. 9; rounded by `noise`."""
    quality, nuisances = correlations.unbind(-2)  # (2, K - 1) each
    return (smoothed_size(quality, noise) - nuisances).sum()


def orthogonality_loss(cosines: torch.Tensor) -> torch.Tensor:
    """|w_Q . w| of the quality row and each nuisance row (K - 1,), summed. Eq. 10."""
    return cosines.abs().sum()


# --- data ---


def load_pairs(source: str, split: str | None, template: Template, arguments: Arguments, refused_path: Path | None):
    """Checked pairs with `ids` [chosen, rejected], their `traits`, and `label`; and what was read."""
    count = trait_counter(template, arguments.further_heads)

    def check_and_render(row: Any) -> dict:
        pair = preferred_first(check_pair(row))
        if is_tie(pair):
            raise RowRefused("tie", "only pairs with a winner are ranked")
        pair["label"] = float(pair.get("label", 1.0))
        pair["ids"] = [render_within(template, pair[side], arguments.max_length) for side in ("chosen", "rejected")]
        pair["traits"] = [count(pair[side][-1]["content"]) for side in ("chosen", "rejected")]
        return pair

    return load_checked(source, check_and_render, refused_path, split)


def collate_pairs(pairs: list[dict], pad_token_id: int | None) -> dict:
    """A batch, packed when `pad_token_id` is None, else padded. The Trainer takes its size from the first entry."""
    groups = [pair["ids"] for pair in pairs]
    return {
        "labels": torch.tensor([pair["label"] for pair in pairs]),  # (B,)
        "traits": torch.tensor([pair["traits"] for pair in pairs]),  # (B, 2, K - 1) float32: counts stay exact
        **(pack(groups, default_kernel()) if pad_token_id is None else pad(groups, pad_token_id)),
    }


def held_out_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy of the quality head and of the sum on pairs with a winner, and how the quality head follows length."""
    (rewards, traits), labels = prediction.predictions, prediction.label_ids  # (N, 2, K), (N, 2, K - 1), (N,)
    margins, margins_of_sum = ((r[:, 0] - r[:, 1])[labels > 0.5] for r in (rewards[..., 0], rewards.sum(-1)))
    return {
        "accuracy": float((margins > 0).mean()),
        "accuracy_of_sum": float((margins_of_sum > 0).mean()),
        "margin": float(margins.mean()),
        "quality_length_correlation": pearson_correlation(rewards[..., 0].flatten(), traits[..., 0].flatten()),
    }


class OdinTrainer(RecipeTrainer):
    """The loss of this method. Evaluation has the ranking loss alone: its batches say little about correlations."""

    def __init__(self, method: Arguments, moments: MomentsInCheckpoints, **kwargs):
        super().__init__(method, compute_metrics=held_out_metrics, **kwargs)
        self.moments = moments

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels, traits = inputs["labels"], inputs["traits"]  # (B,), (B, 2, K - 1)
        inputs = {name: value for name, value in inputs.items() if name not in ("labels", "traits")}
        rewards, cosines = model(**inputs).logits  # (S, K), (K - 1,)
        rewards = rewards.view(len(labels), 2, -1)  # (B, 2, K)
        losses = ranking_losses(rewards, labels)  # (B,)
        loss = self.mean_over_step(losses, num_items_in_batch)
        if model.training:
            loss = loss + self.nuisance_loss(rewards, traits, cosines, num_items_in_batch)
            delta = (rewards[:, 0] - rewards[:, 1]).detach()  # (B, K)
            right, right_by_sum = (delta[:, 0] > 0).float(), (delta.sum(-1) > 0).float()
            self.step_means.add(ranking_loss=losses, accuracy=right, accuracy_of_sum=right_by_sum, margin=delta[:, 0])
        return (loss, {"rewards": rewards, "traits": traits}) if return_outputs else loss

    def nuisance_loss(self, rewards, traits, cosines, num_items_in_batch) -> torch.Tensor:
        """Length terms and orthogonality, weighted with this forward pass's share of the pairs of the whole step."""
        both = gather_rows(torch.cat((rewards, traits), -1), self.accelerator)  # (N, 2, 2K - 1)
        correlations, moments = head_correlations(
            *both.split((rewards.shape[-1], traits.shape[-1]), -1), self.moments.past, self.method.correlation_pairs
        )  # (2, 2, K - 1)
        self.moments.keep(moments)
        defined = moments.is_defined()  # (2, 2, K - 1): what is not counts 0 in the loss, and is not logged
        orthogonality = orthogonality_loss(cosines)
        means = {"orthogonality_loss": orthogonality.view(1)}
        for place, name in enumerate(head_names(self.method.further_heads)[1:]):
            means[f"quality_{name}_correlation"] = correlations[:, 0, place][defined[:, 0, place]]
            means[f"{name}_head_correlation"] = correlations[:, 1, place][defined[:, 1, place]]
        self.step_means.add(**means)
        terms = self.method.length_weight * length_loss(correlations, moments.noise(len(both)))
        return len(both) / num_items_in_batch * (terms + self.method.orthogonality_weight * orthogonality)


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
    data.train = [{name: pair[name] for name in ("ids", "traits", "label")} for pair in data.train]

    names = head_names(arguments.further_heads)
    if train_arguments.process_index == 0:
        for line in constant_traits(np.array([pair["traits"] for pair in data.train]), names[1:]):
            print(line)
    model = load_trainable_heads(
        model_arguments, len(names) - 1, train_arguments.seed, arguments.train_last_layers, arguments.trust_remote_code
    )
    model.config.pad_token_id = pad_token_id
    moments = MomentsInCheckpoints(names, checkpoint)
    trainer = OdinTrainer(
        method=arguments,
        moments=moments,
        model=model,
        args=train_arguments,
        train_dataset=data.train,
        eval_dataset=data.held_out,
        processing_class=template.tokenizer,
        data_collator=partial(collate_pairs, pad_token_id=None if model.shares_prefix else pad_token_id),
        callbacks=[moments, WholeCheckpoints(data.description, checkpoint)],
    )
    parallelism = check_parallelism(trainer)
    before = ScoreBefore(trainer, data.held_out, arguments.score_before)
    trainer.train(resume_from_checkpoint=checkpoint)
    after, traits = trainer.predict(data.held_out).predictions  # (N, 2, K), (N, 2, K - 1)

    difference = save_quality_head(trainer, model_arguments, names, data.held_out[:4], arguments.trust_remote_code)
    decided = [i for i, pair in enumerate(data.held_out) if pair["label"] > 0.5]
    numbers = head_numbers(names, after[decided], traits[decided])
    write_training_record(
        trainer,
        method="ODIN",
        arguments={**asdict(arguments), **asdict(model_arguments), **train_arguments.to_dict()},
        data=data,
        rewards_before=None if before.predictions is None else before.predictions[0][..., 0],
        rewards_after=after[..., 0],
        started_at=started_at,
        curves=CURVES,
        more_tables=head_tables(numbers, names),
        parallelism=parallelism,
        reload_difference=difference,
        heads=numbers,
    )
    finish(trainer)


if __name__ == "__main__":
    exit_cleanly(main)
