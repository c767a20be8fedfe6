r"""SSRM, one round: a pairwise model from labelled pairs and from pairs that the last round's model labelled.

    loss = mean over pairs of -log softmax(logits at the verdict)[label]        SSRM, arXiv 2409.06903; METHODS 3.4
    where the label of a pseudo-labelled pair is the winner that the last model was sure of (pseudo_label.py)

`self_train.py` runs this once per round. By itself, on a CPU, on one GPU, on eight GPUs with ZeRO-3:

    python ssrm/train_ssrm.py --config ssrm/smollm2-135m.yaml --dataset runs/ssrm/round-1/train.jsonl \
        --eval_dataset runs/ssrm/held_out.jsonl
    accelerate launch --config_file configs/one_gpu.yaml ssrm/train_ssrm.py \
        --config ssrm/gemma-2b.yaml --dataset runs/ssrm/round-1/train.jsonl --eval_dataset runs/ssrm/held_out.jsonl
    accelerate launch --config_file configs/eight_gpu.yaml ssrm/train_ssrm.py \
        --config ssrm/gemma-2b.yaml --dataset runs/ssrm/round-1/train.jsonl --eval_dataset runs/ssrm/held_out.jsonl \
        --deepspeed ssrm/zero3.json

Input: rows of chosen/rejected chats (useful_code/chat_pairs.py), some with `pseudo_label`. Output: a directory that
plain Transformers loads as a causal language model, with run.json, report.html and refused_rows.jsonl beside it.
To adapt, edit first: `verdict_loss`, then `targets_of`.

Shapes: B pairs on this device, S sequences (one or two orders of every pair), K labels, V vocabulary.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import EvalPrediction, set_seed
from trl import ModelConfig

from useful_code.chat_pairs import check_pair, is_tie, preferred_first, prompt_of
from useful_code.metrics import pair_accuracy
from useful_code.pair_probability import judge_both_orders
from useful_code.pair_prompt import LABELS, Verdicts, ids_to_verdict, is_shown_first, read_verdicts
from useful_code.read_rows import load_checked
from useful_code.reasons import RowRefused
from useful_code.render import Template
from useful_code.shared_prefix import default_kernel, pack, pad
from useful_code.training.arguments import DataArguments, RecipeArguments, parse_command_line
from useful_code.training.checkpoints import choose_checkpoint
from useful_code.training.data import load_train_and_held_out
from useful_code.training.pair_record import write_pair_record
from useful_code.training.parallelism import check_parallelism, finish
from useful_code.training.recipe_trainer import RecipeTrainer
from useful_code.training.save_load import WholeCheckpoints, save_and_check
from useful_code.training.score_before import ScoreBefore
from useful_code.training.trainable import load_template, load_trainable_judge
from useful_code.user_errors import UserError, exit_cleanly


@dataclass
class Arguments(DataArguments):
    """What belongs to this method. Parsed beside it: `TrainArguments` (Transformers) and `ModelConfig` (TRL)."""

    max_length: int = field(
        default=3072, metadata={"help": "Tokens of the prompt with both answers. A longer pair is dropped and counted."}
    )
    orders: str = field(
        default="drawn",
        metadata={
            "help": "drawn: each pair in one order, by a hash of the seed and its texts; both: in both orders, whose "
            "context is computed once.",
            "choices": ["drawn", "both"],
        },
    )
    softmax_over: str = field(
        default="vocabulary",
        metadata={
            "help": "vocabulary: every token competes with the label, as in language models; labels: only the labels.",
            "choices": ["vocabulary", "labels"],
        },
    )
    pseudo_weight: float = field(
        default=1.0, metadata={"help": "Weight of a pseudo-labelled pair in the loss; the paper's is 1."}
    )
    label_smoothing: float = field(default=0.0, metadata={"help": "Assumed share of flipped labels, 0 to below 0.5."})
    max_tokens_per_batch: int | None = field(
        default=None,
        metadata={"help": "Fill each forward pass up to so many tokens instead of per_device_train_batch_size pairs."},
    )
    score_before: bool = field(default=False, metadata={"help": "Judge the held-out pairs before training as well."})
    train_last_layers: int | None = field(
        default=None, metadata={"help": "Train only the last so many decoder layers, the final norm and the head."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError("--label_smoothing must be at least 0 and below 0.5")
        if not 0 <= self.pseudo_weight < float("inf"):
            raise UserError("--pseudo_weight must be at least 0")


@dataclass
class TrainArguments(RecipeArguments):
    """Defaults of RLHF Workflow (arXiv 2405.07863) for an 8B model: 128 pairs per step on 8 GPUs, one epoch."""

    output_dir: str = field(default="runs/ssrm-round", metadata={"help": "Directory to write."})
    learning_rate: float = field(default=5e-6, metadata={"help": "Peak learning rate."})
    num_train_epochs: float = field(default=1, metadata={"help": "Passes over the training pairs."})
    per_device_train_batch_size: int = field(default=1, metadata={"help": "Pairs per device and forward pass."})
    gradient_accumulation_steps: int = field(default=16, metadata={"help": "Forward passes per optimizer step."})
    weight_decay: float = field(default=0.0, metadata={"help": "Decoupled weight decay."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Shape of the learning rate over time."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Warm-up: steps, or below 1 the share of all steps."})
    logging_steps: float = field(default=1, metadata={"help": "Optimizer steps between two lines of the log."})


# --- the method: tensors in, one loss per sequence out ---


def verdict_loss(
    logits: torch.Tensor,  # (S, V), or (S, K) of the labels alone, float32
    targets: torch.Tensor,  # (S, K) probability of every label
    token_ids: Sequence[int] | None = None,  # of the labels in the vocabulary; None: the logits are theirs
) -> torch.Tensor:
    """-sum_k target_k log softmax(logits)_k: (S,). With a hard label the cross-entropy of METHODS 2.4."""
    log_shares = logits.float().log_softmax(-1)
    if token_ids is not None:
        log_shares = log_shares[:, list(token_ids)]  # (S, K)
    return -(targets * log_shares).sum(-1)


def targets_of(pair: dict, arguments: Arguments) -> list[float]:
    """The probabilities of A and B where `chosen` is shown as A; exchange them for the other order."""
    p = pair["label"] * (1 - arguments.label_smoothing) + (1 - pair["label"]) * arguments.label_smoothing
    return [p, 1 - p]


# --- data ---


def load_pairs(source, split, template: Template, verdicts: Verdicts, arguments: Arguments, refused_path: Path | None):
    """Checked pairs with `ids` and `targets` of both orders [chosen as A, rejected as A]; and what was read."""

    def check_and_render(row: Any) -> dict:
        pair = preferred_first(check_pair(row))
        if is_tie(pair):
            raise RowRefused("tie", "a tie has no winner to learn")
        pair["label"] = float(pair.get("label", 1.0))
        pair["pseudo"] = bool(pair.get("pseudo_label", False))
        answers = [pair[side][-1]["content"] for side in ("chosen", "rejected")]
        pair["ids"] = [
            ids_to_verdict(template, verdicts, prompt_of(pair), *order, arguments.max_length)
            for order in (answers, answers[::-1])
        ]
        target = targets_of(pair, arguments)
        pair["targets"] = [target, target[::-1]]
        return pair

    return load_checked(source, check_and_render, refused_path, split)


def to_train_on(pair: dict, orders: str, seed: int) -> dict:
    """What training reads of a pair, in both orders or the one that is drawn; the texts would only fill memory."""
    places = [0, 1]
    if orders == "drawn":
        chosen, rejected = (pair[side][-1]["content"] for side in ("chosen", "rejected"))
        places = [0 if is_shown_first(prompt_of(pair), chosen, rejected, seed) else 1]
    return {"label": pair["label"], "pseudo": pair["pseudo"]} | {
        name: [pair[name][place] for place in places] for name in ("ids", "targets")
    }


def collate_pairs(pairs: list[dict], pad_token_id: int | None) -> dict:
    """A batch, packed when `pad_token_id` is None, else padded. The Trainer takes its size from the first entry."""
    groups = [pair["ids"] for pair in pairs]
    return {
        "labels": torch.tensor([pair["label"] for pair in pairs]),  # (B,)
        "pseudo": torch.tensor([pair["pseudo"] for pair in pairs]),  # (B,)
        "targets": torch.tensor([order for pair in pairs for order in pair["targets"]]),  # (S, K)
        **(pack(groups, default_kernel()) if pad_token_id is None else pad(groups, pad_token_id)),
    }


def held_out_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy of both orders together, of the pairs that have a winner, and what the order changes."""
    logits, labels = prediction.predictions, prediction.label_ids  # (N, 2, K), (N,)
    both = judge_both_orders(logits[:, 0], logits[:, 1])
    return {"accuracy": pair_accuracy((both.probability - 0.5)[labels > 0.5], tie_credit=0.5), **both.summary()}


class PairTrainer(RecipeTrainer):
    """The loss of this method, its mean taken over all pairs of an optimizer step on all processes."""

    def __init__(self, method: Arguments, verdicts: Verdicts, **kwargs):
        super().__init__(method, compute_metrics=held_out_metrics, **kwargs)
        self.token_ids = verdicts.token_ids

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        targets, pseudo, num_pairs = inputs["targets"], inputs["pseudo"], len(inputs["labels"])
        inputs = {name: value for name, value in inputs.items() if name not in ("labels", "targets", "pseudo")}
        if self.method.softmax_over == "labels":
            of_labels = model(**inputs, token_ids=self.token_ids).logits  # (S, K)
            losses = verdict_loss(of_labels, targets)  # (S,)
        else:
            logits = model(**inputs).logits  # (S, V)
            losses = verdict_loss(logits, targets, self.token_ids)  # (S,)
            of_labels = logits[:, list(self.token_ids)]  # (S, K)
        losses = losses.view(num_pairs, -1).mean(-1)  # (B,) over the orders of a pair
        losses = torch.where(pseudo, self.method.pseudo_weight, 1.0) * losses
        loss = self.mean_over_step(losses, num_items_in_batch)
        if model.training:
            right = (of_labels.argmax(-1) == targets.argmax(-1)).float().view(num_pairs, -1).mean(-1)  # (B,)
            self.step_means.add(accuracy=right[~pseudo], accuracy_pseudo=right[pseudo], pseudo_share=pseudo.float())
        return (
            (loss, {"logits": of_labels.float().view(num_pairs, -1, len(self.token_ids))}) if return_outputs else loss
        )


# --- the run ---


def main() -> None:
    started_at = time.time()
    arguments, train_arguments, model_arguments = parse_command_line((Arguments, TrainArguments, ModelConfig))
    checkpoint = choose_checkpoint(train_arguments.resume_from_checkpoint, train_arguments.output_dir)
    set_seed(train_arguments.seed)

    template, pad_token_id = load_template(model_arguments, arguments.chat_template_path, arguments.trust_remote_code)
    verdicts = read_verdicts(template, LABELS)
    data = load_train_and_held_out(
        lambda source, split, refused: load_pairs(source, split, template, verdicts, arguments, refused),
        arguments,
        train_arguments,
    )
    if any(pair["pseudo"] for pair in data.held_out):
        raise UserError(
            "held-out rows are pseudo-labelled, so the model would judge itself; give an --eval_dataset without them"
        )
    data.train = [to_train_on(pair, arguments.orders, train_arguments.seed) for pair in data.train]

    model = load_trainable_judge(model_arguments, arguments.train_last_layers, arguments.trust_remote_code)
    model.config.pad_token_id = pad_token_id
    model.config.pair_labels = list(verdicts.labels)
    trainer = PairTrainer(
        method=arguments,
        verdicts=verdicts,
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
    after = trainer.predict(data.held_out).predictions  # (N, 2, K)

    difference = save_and_check(
        trainer, model_arguments, data.held_out[:4], arguments.trust_remote_code, verdicts.token_ids
    )
    write_pair_record(
        trainer,
        arguments={**asdict(arguments), **asdict(model_arguments), **train_arguments.to_dict()},
        data=data,
        logits_before=before.predictions,
        logits_after=after,
        started_at=started_at,
        parallelism=parallelism,
        reload_difference=difference,
        labels=verdicts.labels,
    )
    finish(trainer)


if __name__ == "__main__":
    exit_cleanly(main)
