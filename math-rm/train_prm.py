r"""Process reward model: for every step of a solution, the probability that it is right.

    loss = mean over labelled steps of y softplus(-z) + (1 - y) softplus(z)     z = l_plus - l_minus at a step's place
    --softmax_over vocabulary: -[y log P(+) + (1 - y) log P(-)], as a language model learns; Math-Shepherd 2312.08935

On a CPU, on one GPU, on eight GPUs with ZeRO-3 (from the root of the repository):

    python math-rm/train_prm.py --config math-rm/smollm2-135m.yaml --dataset steps/mine.jsonl
    accelerate launch --config_file configs/one_gpu.yaml math-rm/train_prm.py \
        --config math-rm/qwen2.5-math-1.5b.yaml --dataset trl-lib/math_shepherd
    accelerate launch --config_file configs/eight_gpu.yaml math-rm/train_prm.py \
        --config math-rm/llama3-8b.yaml --dataset trl-lib/math_shepherd --deepspeed math-rm/zero3.json

Input: step rows (useful_code/step_rows.py). Output: a directory that plain Transformers loads as a causal language
model (--form verdicts) or a token classifier (--form tags), with run.json, report.html and refused_rows.jsonl beside
it. To adapt, edit first: `step_losses`, then `load_solutions`.

Shapes: B solutions on this device, K steps of the longest, M steps in the batch, V vocabulary.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from math_models import UNKNOWN, load_form, load_trainable_form, save_and_check_form
from math_record import write_math_record
from transformers import EvalPrediction, set_seed
from trl import ModelConfig

from useful_code.read_rows import load_checked
from useful_code.reasons import RowRefused
from useful_code.shared_prefix import default_kernel, flat_places, pack, pad
from useful_code.step_prompt import StepForm, VerdictForm
from useful_code.step_rows import check_problem, check_steps
from useful_code.training.arguments import DataArguments, RecipeArguments, parse_command_line
from useful_code.training.checkpoints import choose_checkpoint
from useful_code.training.data import load_train_and_held_out
from useful_code.training.parallelism import check_parallelism, finish
from useful_code.training.recipe_trainer import RecipeTrainer
from useful_code.training.save_load import WholeCheckpoints
from useful_code.training.score_before import ScoreBefore
from useful_code.user_errors import UserError, exit_cleanly


@dataclass
class Arguments(DataArguments):
    """What belongs to this method. Parsed beside it: `TrainArguments` (Transformers) and `ModelConfig` (TRL)."""

    max_length: int = field(
        default=4096, metadata={"help": "Tokens. A longer solution is dropped and counted, never cut."}
    )
    form: str = field(
        default="verdicts",
        metadata={
            "help": "verdicts: a language model answers + or - to every step; tags: a token classifier tags the "
            "separator behind every step, as TRL's PRMTrainer did.",
            "choices": ["verdicts", "tags"],
        },
    )
    step_separator: str = field(default="\n", metadata={"help": "With --form tags: the text behind every step."})
    softmax_over: str = field(
        default="signs",
        metadata={
            "help": "With --form verdicts. signs: + against -; vocabulary: every token competes, as in the original.",
            "choices": ["signs", "vocabulary"],
        },
    )
    labels: str = field(
        default="soft",
        metadata={
            "help": "soft: labels as they are; hard: 1 where a label is above 0 (some completion was right), else 0.",
            "choices": ["soft", "hard"],
        },
    )
    history: str = field(
        default="plus",
        metadata={
            "help": "What stands in place of earlier verdicts. plus: always +, as in scoring, so it tells nothing; "
            "labels: the true ones, as in the original's training (scores are read with + all the same).",
            "choices": ["plus", "labels"],
        },
    )
    max_tokens_per_batch: int | None = field(
        default=None,
        metadata={"help": "Fill each forward pass up to so many tokens instead of per_device_train_batch_size."},
    )
    score_before: bool = field(default=False, metadata={"help": "Score the held-out rows before training as well."})
    train_last_layers: int | None = field(
        default=None, metadata={"help": "Train only the last so many decoder layers, the final norm and the head."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form == "tags" and (self.softmax_over, self.history) != ("signs", "plus"):
            raise UserError("--softmax_over and --history are about verdicts; --form tags has none")


@dataclass
class TrainArguments(RecipeArguments):
    """Defaults of RLHFlow's process models (METHODS 7.5), one epoch; its steps are 32 rows packed to 8192 tokens on 8
    GPUs, which llama3-8b.yaml has."""

    output_dir: str = field(default="runs/prm", metadata={"help": "Directory to write."})
    learning_rate: float = field(default=2e-6, metadata={"help": "Peak learning rate."})
    num_train_epochs: float = field(default=1, metadata={"help": "Passes over the training solutions."})
    per_device_train_batch_size: int = field(default=1, metadata={"help": "Solutions per device and forward pass."})
    gradient_accumulation_steps: int = field(default=4, metadata={"help": "Forward passes per optimizer step."})
    weight_decay: float = field(default=0.0, metadata={"help": "Decoupled weight decay."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Shape of the learning rate over time."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Warm-up: steps, or below 1 the share of all steps."})
    logging_steps: float = field(default=1, metadata={"help": "Optimizer steps between two lines of the log."})


# --- the method: tensors in, one loss per step out, all in float32 ---


def step_losses(log_odds: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the two signs, (M,) from z (M,) and labels (M,) in [0, 1]; METHODS 7.4."""
    z = log_odds.float()
    return labels * F.softplus(-z) + (1 - labels) * F.softplus(z)  # softplus(-z) = -log sigmoid(z), never overflows


def vocabulary_losses(logits: torch.Tensor, labels: torch.Tensor, token_ids: Sequence[int]) -> torch.Tensor:
    """The same where every token of the vocabulary competes: (M,) from logits (M, V); `token_ids` are of - and +."""
    minus, plus = logits.float().log_softmax(-1)[:, list(token_ids)].unbind(-1)  # (M,) each
    return -(labels * plus + (1 - labels) * minus)


def labels_to_learn(labels: Sequence[float | None], kind: str) -> list[float]:
    """Soft labels as they are, or hard ones: 1[label > 0]; a step without label is UNKNOWN.

    >>> labels_to_learn([1.0, 0.25, 0.0, None], "hard")
    [1.0, 1.0, 0.0, -100.0]
    """
    known = [None if label is None else float(label > 0) if kind == "hard" else label for label in labels]
    return [float(UNKNOWN) if label is None else label for label in known]


# --- data ---


def load_solutions(source: str, split: str | None, form: StepForm, arguments: Arguments, refused_path: Path | None):
    """Checked step rows with `ids`, the `places` of their steps and `targets` (K,); and what was read."""

    def check_and_render(row: Any) -> dict:
        solution = check_steps(row)
        check_problem(solution)
        if all(label is None for label in solution["labels"]):
            raise RowRefused("not_labelled", "no step has a label; train_orm.py learns from outcomes")
        solution["targets"] = labels_to_learn(solution["labels"], arguments.labels)
        read = partial(form.read, solution["prompt"], solution["completions"], max_length_tokens=arguments.max_length)
        solution["ids"], solution["places"] = read()  # as in scoring: earlier labels are not seen
        if arguments.history == "labels":
            solution["ids_with_labels"] = read(history=[label != 0 for label in solution["targets"]]).ids
        return solution

    return load_checked(source, check_and_render, refused_path, split)


def to_train_on(solution: dict) -> dict:
    """What training reads of a solution; the texts would only fill memory."""
    ids = solution.get("ids_with_labels", solution["ids"])
    return {"ids": ids, "places": solution["places"], "targets": solution["targets"]}


def collate_solutions(solutions: list[dict], pad_token_id: int | None) -> dict:
    """A batch, packed when `pad_token_id` is None, else padded. The Trainer takes its size from the first entry."""
    groups = [[solution["ids"]] for solution in solutions]
    batch = pack(groups, default_kernel()) if pad_token_id is None else pad(groups, pad_token_id)
    most = max(len(solution["targets"]) for solution in solutions)
    labels = [solution["targets"] + [float(UNKNOWN)] * (most - len(solution["targets"])) for solution in solutions]
    places = flat_places(batch, [solution["places"] for solution in solutions])  # (B, K)
    return {"labels": torch.tensor(labels), "places": places, **batch}  # labels (B, K)


def held_out_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Loss and accuracy over the labelled steps; a label of exactly one half counts for neither side."""
    labels = prediction.label_ids.flatten()  # (N K,)
    known = labels != UNKNOWN
    z, labels = prediction.predictions.flatten()[known].astype(float), labels[known]
    decided = labels != 0.5
    losses = labels * np.logaddexp(0, -z) + (1 - labels) * np.logaddexp(0, z)
    return {
        "step_loss": float(losses.mean()),
        "step_accuracy": float(((z > 0) == (labels > 0.5))[decided].mean()) if decided.any() else float("nan"),
    }


class ProcessTrainer(RecipeTrainer):
    """The loss of this method, its mean taken over all labelled steps of an optimizer step on all processes."""

    def __init__(self, method: Arguments, form: StepForm, **kwargs):
        super().__init__(method, compute_metrics=held_out_metrics, **kwargs)
        self.token_ids = form.token_ids if isinstance(form, VerdictForm) else None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels, is_step = inputs["labels"], inputs["places"] >= 0  # (B, K) each
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        targets = labels[is_step]  # (M,)
        known = targets != UNKNOWN
        if self.method.softmax_over == "vocabulary":
            logits = model(**inputs).logits  # (M, V)
            losses = vocabulary_losses(logits[known], targets[known], self.token_ids)
            of_signs = logits[:, list(self.token_ids)]  # (M, 2)
        else:
            of_signs = model(**inputs, token_ids=self.token_ids).logits  # (M, 2)
            losses = step_losses((of_signs[:, 1] - of_signs[:, 0])[known], targets[known])
        log_odds = (of_signs[:, 1] - of_signs[:, 0]).float()  # (M,)
        loss = self.mean_over_step(losses, num_items_in_batch)
        if model.training:
            right = (log_odds > 0) == (targets > 0.5)
            decided = known & (targets != 0.5)
            self.step_means.add(step_accuracy=right[decided].float())
        table = torch.full(labels.shape, float(UNKNOWN), device=labels.device)  # (B, K)
        table[is_step] = log_odds.detach()
        return (loss, {"log_odds": table}) if return_outputs else loss

    def num_tokens(self, row: dict) -> int:
        return len(row["ids"])


# --- the run ---


def main() -> None:
    started_at = time.time()
    arguments, train_arguments, model_arguments = parse_command_line((Arguments, TrainArguments, ModelConfig))
    checkpoint = choose_checkpoint(train_arguments.resume_from_checkpoint, train_arguments.output_dir)
    set_seed(train_arguments.seed)

    form, tokenizer, pad_token_id = load_form(model_arguments, arguments)
    data = load_train_and_held_out(
        lambda source, split, refused: load_solutions(source, split, form, arguments, refused),
        arguments,
        train_arguments,
    )
    data.train = [to_train_on(solution) for solution in data.train]
    if all(label in (UNKNOWN, 0.5) for solution in data.held_out for label in solution["targets"]):
        raise UserError("no held-out step is labelled as right or wrong: accuracy cannot be measured")

    model = load_trainable_form(model_arguments, form, train_arguments.seed, arguments, reward_of="steps")
    model.config.pad_token_id = pad_token_id
    trainer = ProcessTrainer(
        method=arguments,
        form=form,
        model=model,
        args=train_arguments,
        train_dataset=data.train,
        eval_dataset=data.held_out,
        processing_class=tokenizer,
        data_collator=partial(collate_solutions, pad_token_id=None if model.shares_prefix else pad_token_id),
        callbacks=[WholeCheckpoints(data.description, checkpoint)],
    )
    parallelism = check_parallelism(trainer)
    before = ScoreBefore(trainer, data.held_out, arguments.score_before)
    trainer.train(resume_from_checkpoint=checkpoint)
    after = trainer.predict(data.held_out).predictions  # (N, K) log-odds

    difference = save_and_check_form(trainer, model_arguments, form, data.held_out[:4], arguments.trust_remote_code)
    write_math_record(
        trainer,
        method="process reward",
        arguments={**asdict(arguments), **asdict(model_arguments), **train_arguments.to_dict()},
        data=data,
        log_odds_before=before.predictions,
        log_odds_after=after,
        started_at=started_at,
        parallelism=parallelism,
        reload_difference=difference,
    )
    finish(trainer)


if __name__ == "__main__":
    exit_cleanly(main)
