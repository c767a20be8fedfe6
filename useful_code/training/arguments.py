"""What every recipe's training arguments share: Transformers' own flags, made safe for CPUs and for resuming."""

import difflib
import os
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from trl import TrlParser

from useful_code.user_errors import UserError


@dataclass
class DataArguments:
    """Where the rows come from, and how a conversation becomes tokens: the same flags for every recipe."""

    dataset: str = field(metadata={"help": "Training rows: a file, a folder or the name of a hub data set."})
    dataset_split: str | None = field(default=None, metadata={"help": "Split of a hub data set."})
    eval_dataset: str | None = field(
        default=None, metadata={"help": "Held-out rows. Training rows with a prompt of theirs are dropped and counted."}
    )
    eval_dataset_split: str | None = field(default=None, metadata={"help": "Split of a hub data set to hold out."})
    held_out_share: float = field(
        default=0.05, metadata={"help": "Share of the prompts to hold out when there is no eval_dataset."}
    )
    chat_template_path: str | None = field(default=None, metadata={"help": "Jinja file to use as chat template."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})

    def __post_init__(self) -> None:
        if not 0 < self.held_out_share < 1:
            raise UserError("--held_out_share must lie between 0 and 1")


@dataclass
class RecipeArguments(TrainingArguments):
    """Transformers' `TrainingArguments`; recipes subclass it with the defaults of their paper.

    Without a GPU: training runs on the CPU, several processes talk through gloo, and bf16 is switched off unless the
    CPU multiplies in bf16 (elsewhere it was measured 24 times slower than float32).
    """

    bf16: bool | None = field(  # type: ignore[assignment]  # None: decided by the hardware
        default=None,
        metadata={"help": "Compute in bfloat16 over float32 weights. Default: on where the hardware is made for it."},
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Kept off: the collators of the recipes need their own columns."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide steps whose loss is NaN from the log. Off: you want to see them."}
    )
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Checkpoints kept; at least 2, so that a kill during a write leaves a whole one."}
    )
    report_to: None | str | list[str] = field(
        default="none", metadata={"help": "Trackers to log to: none, tensorboard, wandb, trackio, ..."}
    )

    def __post_init__(self) -> None:
        if not torch.cuda.is_available():
            self.use_cpu = True
        if self.use_cpu and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self.ddp_backend = self.ddp_backend or "gloo"
        if self.save_total_limit is not None and self.save_total_limit < 2:
            raise UserError("--save_total_limit must be at least 2, so that one checkpoint is whole at any time")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.learning_rate < inf:  # NaN too
            raise UserError(f"--learning_rate is {self.learning_rate}; it must be finite and not negative")
        if Path(self.output_dir or "").is_file():
            raise UserError(f"--output_dir {self.output_dir} is a file; give a directory")
        if self.label_smoothing_factor:
            raise UserError("--label_smoothing_factor does nothing here: the loss is the recipe's own")
        if not self.average_tokens_across_devices:
            raise UserError("--average_tokens_across_devices must stay true: the loss is a mean over all processes")
        trackers = {self.report_to} if isinstance(self.report_to, str) else set(self.report_to or ())
        trackers -= {"none", "all"}
        if trackers and (missing := trackers - set(get_available_reporting_integrations())):
            raise UserError(f"--report_to {', '.join(sorted(missing))}: no such tracker is installed; see --help")
        self.bf16 = choose_bf16(self.bf16, bool(self.fp16), bool(self.use_cpu))
        super().__post_init__()


def choose_bf16(asked: bool | None, fp16: bool, use_cpu: bool) -> bool:
    """Whether to compute in bfloat16: as asked on a GPU that can, never on a CPU that only emulates it.

    >>> choose_bf16(asked=None, fp16=True, use_cpu=False)
    False
    """
    if use_cpu:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        if asked and not native:
            print("this CPU has no bfloat16 instructions: training in float32")
        return bool(asked) and native
    if asked is None:
        return not fp16 and torch.cuda.is_bf16_supported()
    return asked


def parse_command_line(dataclasses: Iterable[Any], arguments: list[str] | None = None) -> tuple[Any, ...]:
    """Dataclasses from `--config file.yaml` and the command line, which wins. A bad value is a UserError."""
    parser = TrlParser(list(dataclasses))
    try:
        *parsed, unknown = parser.parse_args_and_config(arguments, return_remaining_strings=True)
    except IndexError as error:
        raise UserError("--config needs the path of a YAML file") from error
    except (ValueError, TypeError, OSError, ImportError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"the arguments cannot be used: {text or type(error).__name__}") from error
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        similar = difflib.get_close_matches(unknown[0], known, n=1)
        raise UserError(
            f"unknown arguments: {' '.join(unknown)}; " + (f"is {similar[0]} meant?" if similar else "see --help")
        )
    for part in parsed:
        _check_types(part)
    return tuple(parsed)


def _check_types(parsed: Any) -> None:
    """Values of the command line are checked by argparse; those of a YAML file are not."""
    kinds_of: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float)}
    for argument in fields(parsed):
        value = getattr(parsed, argument.name)
        if value is None:
            if argument.default is MISSING:
                raise UserError(f"{argument.name} is empty; it needs a value")
            continue  # `max_length: null` switches something off
        choices = argument.metadata.get("choices")
        if choices and value not in choices:
            raise UserError(f"{argument.name} is {value!r}; choose from {', '.join(map(str, choices))}")
        kinds = kinds_of.get(argument.type)
        if kinds and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise UserError(f"{argument.name} is {value!r}; it must be of the type {kinds[-1].__name__}")
