r"""Outcome reward model: for a whole solution, the probability that its answer is right.

    loss = mean over solutions of y softplus(-z) + (1 - y) softplus(z)         METHODS 7.4; Cobbe et al. 2110.14168
    z: l_plus - l_minus behind the solution (--form verdicts), or the one number of a scalar head (--form scalar)

On a CPU, on one GPU, on eight GPUs with ZeRO-3 (from the root of the repository):

    python math-rm/train_orm.py --config math-rm/smollm2-135m.yaml --dataset steps/mine.jsonl
    accelerate launch --config_file configs/one_gpu.yaml math-rm/train_orm.py \
        --config math-rm/qwen2.5-math-1.5b.yaml --dataset steps/math_shepherd
    accelerate launch --config_file configs/eight_gpu.yaml math-rm/train_orm.py \
        --config math-rm/llama3-8b.yaml --dataset steps/math_shepherd --deepspeed math-rm/zero3.json

Input: step rows with an `outcome` (useful_code/step_rows.py). Output: a directory that plain Transformers loads as a
causal language model, or as a one-label sequence classifier (--form scalar), with run.json, report.html and
refused_rows.jsonl beside it. To adapt, edit first: `outcome_losses`, then `load_solutions`.

Shapes: B solutions on this device.
"""

import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from math_models import load_form, load_trainable_form, save_and_check_form
from math_record import write_math_record
from transformers import EvalPrediction, set_seed
from trl import ModelConfig

from useful_code.read_rows import load_checked
from useful_code.reasons import RowRefused
from useful_code.render import Template
from useful_code.shared_prefix import default_kernel, flat_places, pack, pad
from useful_code.step_prompt import VerdictForm, read_outcome
from useful_code.step_rows import check_problem, check_steps
from useful_code.training.arguments import DataArguments, RecipeArguments, parse_command_line
from useful_code.training.checkpoints import choose_checkpoint
from useful_code.training.data import load_train_and_held_out
from useful_code.training.parallelism import check_parallelism, finish
from useful_code.training.recipe_trainer import RecipeTrainer
from useful_code.training.save_load import WholeCheckpoints
from useful_code.training.score_before import ScoreBefore
from useful_code.training.trainable import load_template, load_trainable_reward_model
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
            "help": "verdicts: a language model answers + or - to the solution; scalar: a sequence classifier gives "
            "one number.",
            "choices": ["verdicts", "scalar"],
        },
    )
    outcome_from_last_label: bool = field(
        default=False,
        metadata={
            "help": "Take the last step's label for the outcome where a row has none: right for rollouts' labels, "
            "wrong where people labelled steps."
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


@dataclass
class TrainArguments(RecipeArguments):
    """Defaults of RLHFlow's outcome models (METHODS 7.5), one epoch; its steps are 32 rows packed to 8192 tokens on 8
    GPUs, which llama3-8b.yaml has, and its scalar script has half this learning rate."""

    output_dir: str = field(default="runs/orm", metadata={"help": "Directory to write."})
    learning_rate: float = field(default=2e-6, metadata={"help": "Peak learning rate."})
    num_train_epochs: float = field(default=1, metadata={"help": "Passes over the training solutions."})
    per_device_train_batch_size: int = field(default=1, metadata={"help": "Solutions per device and forward pass."})
    gradient_accumulation_steps: int = field(default=4, metadata={"help": "Forward passes per optimizer step."})
    weight_decay: float = field(default=0.0, metadata={"help": "Decoupled weight decay."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Shape of the learning rate over time."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Warm-up: steps, or below 1 the share of all steps."})
    logging_steps: float = field(default=1, metadata={"help": "Optimizer steps between two lines of the log."})


# --- the method: tensors in, one loss per solution out, in float32 ---


def outcome_losses(log_odds: torch.Tensor, outcomes: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with logits, (B,) from z (B,) and outcomes (B,) in [0, 1]: confident errors keep their gradient."""
    z = log_odds.float()
    return outcomes * F.softplus(-z) + (1 - outcomes) * F.softplus(z)  # softplus(-z) = -log sigmoid(z)


def outcome_of(solution: dict, from_last_label: bool) -> float:
    """Whether the answer of a checked step row is right. Raises RowRefused("no_outcome") where that is not known."""
    if "outcome" in solution:
        return float(solution["outcome"])
    if from_last_label and solution["labels"][-1] is not None:
        return solution["labels"][-1]
    raise RowRefused("no_outcome", "see --outcome_from_last_label")


# --- data ---


def load_solutions(
    source: str, split: str | None, reader: VerdictForm | Template, arguments: Arguments, refused_path: Path | None
):
    """Checked step rows with `ids`, `places` and `targets`, a list of one outcome; and what was read."""

    def check_and_render(row: Any) -> dict:
        solution = check_steps(row)
        solution["targets"] = [outcome_of(solution, arguments.outcome_from_last_label)]
        check_problem(solution)
        whole = read_outcome(reader, solution["prompt"], solution["completions"], arguments.max_length)
        solution["ids"], solution["places"] = whole
        return solution

    return load_checked(source, check_and_render, refused_path, split)


def collate_solutions(solutions: list[dict], pad_token_id: int | None, at_places: bool) -> dict:
    """A batch, packed when `pad_token_id` is None, else padded. The Trainer takes its size from the first entry."""
    groups = [[solution["ids"]] for solution in solutions]
    batch = pack(groups, default_kernel()) if pad_token_id is None else pad(groups, pad_token_id)
    if at_places:
        batch["places"] = flat_places(batch, [solution["places"] for solution in solutions])  # (B, 1)
    return {"labels": torch.tensor([solution["targets"] for solution in solutions]), **batch}  # labels (B, 1)


def held_out_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy over all solutions; log-odds of exactly 0 count as wrong, an outcome of one half for neither side."""
    z, outcomes = prediction.predictions[:, 0], prediction.label_ids[:, 0]  # (N,) each
    right = np.where(outcomes > 0.5, z > 0, z < 0)[outcomes != 0.5]
    return {"accuracy": float(right.mean()) if len(right) else float("nan")}


class OutcomeTrainer(RecipeTrainer):
    """The loss of this method, its mean taken over all solutions of an optimizer step on all processes."""

    def __init__(self, method: Arguments, token_ids: tuple[int, int] | None, **kwargs):
        super().__init__(method, compute_metrics=held_out_metrics, **kwargs)
        self.token_ids = token_ids  # None: a scalar head

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outcomes = inputs["labels"][:, 0]  # (B,)
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        if self.token_ids is None:
            log_odds = model(**inputs).logits[:, 0]  # (B,)
        else:
            of_signs = model(**inputs, token_ids=self.token_ids).logits  # (B, 2)
            log_odds = of_signs[:, 1] - of_signs[:, 0]  # (B,)
        losses = outcome_losses(log_odds, outcomes)  # (B,)
        loss = self.mean_over_step(losses, num_items_in_batch)
        if model.training:
            right = (log_odds > 0) == (outcomes > 0.5)
            self.step_means.add(accuracy=right[outcomes != 0.5].float())
        return (loss, {"log_odds": log_odds.float()[:, None]}) if return_outputs else loss

    def num_tokens(self, row: dict) -> int:
        return len(row["ids"])


# --- the run ---


def main() -> None:
    started_at = time.time()
    arguments, train_arguments, model_arguments = parse_command_line((Arguments, TrainArguments, ModelConfig))
    checkpoint = choose_checkpoint(train_arguments.resume_from_checkpoint, train_arguments.output_dir)
    set_seed(train_arguments.seed)

    trusted, seed = arguments.trust_remote_code, train_arguments.seed
    reader: VerdictForm | Template
    if arguments.form == "verdicts":
        reader, tokenizer, pad_token_id = load_form(model_arguments, arguments)
        token_ids = reader.token_ids
    else:
        reader, pad_token_id = load_template(model_arguments, arguments.chat_template_path, trusted)
        tokenizer, token_ids = reader.tokenizer, None
    data = load_train_and_held_out(
        lambda source, split, refused: load_solutions(source, split, reader, arguments, refused),
        arguments,
        train_arguments,
    )
    data.train = [{name: solution[name] for name in ("ids", "places", "targets")} for solution in data.train]
    if all(solution["targets"] == [0.5] for solution in data.held_out):
        raise UserError("no held-out solution is labelled as right or wrong: accuracy cannot be measured")

    if token_ids:
        model = load_trainable_form(model_arguments, reader, seed, arguments, reward_of="outcome")
    else:
        model = load_trainable_reward_model(model_arguments, seed, arguments.train_last_layers, trusted)
    model.config.pad_token_id = pad_token_id
    trainer = OutcomeTrainer(
        method=arguments,
        token_ids=token_ids,
        model=model,
        args=train_arguments,
        train_dataset=data.train,
        eval_dataset=data.held_out,
        processing_class=tokenizer,
        data_collator=partial(
            collate_solutions,
            pad_token_id=None if model.shares_prefix else pad_token_id,
            at_places=token_ids is not None,
        ),
        callbacks=[WholeCheckpoints(data.description, checkpoint)],
    )
    parallelism = check_parallelism(trainer)
    before = ScoreBefore(trainer, data.held_out, arguments.score_before)
    trainer.train(resume_from_checkpoint=checkpoint)
    after = trainer.predict(data.held_out).predictions  # (N, 1) log-odds

    difference = save_and_check_form(trainer, model_arguments, reader, data.held_out[:4], trusted)
    write_math_record(
        trainer,
        method="outcome reward",
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
