"""Saving: every run ends in a directory that plain Transformers loads, and that is proven before the run ends."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback
from trl import ModelConfig

from useful_code import merge_adapter
from useful_code.atomic_write import write_atomically
from useful_code.reward_model import in_float32
from useful_code.training import check_saved, same_run
from useful_code.training.checkpoints import MANIFEST, PREFIX, list_checkpoints, write_manifest

FLOAT32_TOLERANCE = 1e-4
# bfloat16 has 8 bits of mantissa, int8 activations fewer: rewards are off by some 1e-2 of the size of the largest.
ROUNDED_TOLERANCE = 5e-2


class WholeCheckpoints(TrainerCallback):
    """After a checkpoint is written, by all processes, list its files and sizes in a manifest.

    `description` is that of the run (`TrainingData.description`), and stands in each of its checkpoints. Raises
    UserError when the run goes on with a `checkpoint` of another description.
    """

    def __init__(self, description: dict[str, Any], checkpoint: str | None):
        self.description = description
        if checkpoint:
            same_run.check_same_run(checkpoint, description)

    def on_train_begin(self, args, state, control, **kwargs):
        # A run resumed from an earlier step writes later checkpoints anew: until then their old lists do not count.
        if state.is_world_process_zero:
            for path in list_checkpoints(args.output_dir):
                if int(path.name.rsplit("-", 1)[1]) > state.global_step:
                    (path / MANIFEST).unlink(missing_ok=True)

    def on_save(self, args, state, control, **kwargs):
        args.distributed_state.wait_for_everyone()
        if state.is_world_process_zero:
            directory = Path(args.output_dir) / f"{PREFIX}-{state.global_step}"
            write_atomically(directory / same_run.FILE, json.dumps(self.description, indent=1) + "\n")
            write_manifest(directory)
        args.distributed_state.wait_for_everyone()


def save_model(trainer: Trainer, base_model: str, revision: str = "main", trust_remote_code: bool = False) -> Path:
    """Write the trained model as Transformers reads it to `trainer.args.output_dir`, from any kind of run.

    Called by all processes. DDP, ZeRO-3 and FSDP gather whole weights. LoRA keeps its adapter, head included, in
    `adapter/` and merges it into `base_model` in a process of its own; QLoRA into the base as its 4 or 8 bits have it.
    """
    output_dir = Path(str(trainer.args.output_dir))
    is_adapter = hasattr(trainer.model, "peft_config")
    target = output_dir / "adapter" if is_adapter else output_dir
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(target))
    if trainer.is_world_process_zero():
        (target / "training_args.bin").unlink(missing_ok=True)  # a pickle; run.json holds the arguments
        if is_adapter:
            command = ["--base", base_model, "--adapter", str(target), "--output", str(output_dir)]
            command += ["--revision", revision] if not Path(base_model).exists() else []
            command += ["--trust_remote_code"] if trust_remote_code else []
            model: Any = trainer.model
            quantization = getattr(model.config, "quantization_config", None)
            if quantization:  # the adapter fits this base only; merge_adapter.py looks for the file
                write_atomically(target / merge_adapter.QUANTIZATION_FILE, quantization.to_json_string(use_diff=False))
            values = {name: getattr(model.config, name, None) for name in merge_adapter.KEPT_IN_CONFIG}
            write_atomically(target / merge_adapter.CONFIG_FILE, json.dumps(values))
            _run_alone(merge_adapter.__file__, command)
    trainer.accelerator.wait_for_everyone()
    return output_dir


def save_and_check(
    trainer: Trainer,
    model_arguments: ModelConfig,
    rows: list[dict],
    trust_remote_code: bool = False,
    token_ids: Sequence[int] = (),
) -> float:
    """`save_model`, then compare what is predicted for `rows` (each with `ids`) before and after: the largest
    difference. With `token_ids` the predictions are logits of these tokens, not rewards.

    Called by all processes; a run whose saved directory does not give its own predictions fails here.
    """
    with in_float32(trainer.model):
        predictions: Any = trainer.predict(rows).predictions  # type: ignore[arg-type]  # (N, 2) or (N, 2, K)
    base_model = str(model_arguments.model_name_or_path)
    directory = save_model(trainer, base_model, model_arguments.model_revision, trust_remote_code)
    sequences, rewards = [ids for row in rows for ids in row["ids"]], predictions.flatten().tolist()
    return check_saved_rewards(trainer, directory, sequences, rewards, trust_remote_code, token_ids)


def check_saved_rewards(
    trainer: Trainer,
    directory: Path,
    sequences: Sequence[Sequence[int]],
    rewards: Sequence[float],
    trust_remote_code: bool = False,
    token_ids: Sequence[int] = (),
    flags: Sequence[str] = (),
) -> float:
    """Reload `directory` in a fresh process with plain Transformers and return the largest difference of a reward.

    `rewards` are those of the trained model for the token ids `sequences`, predicted `in_float32`; with `token_ids`
    they are the logits of these tokens behind each sequence; `flags` are more of `check_saved.py`. Called by all
    processes. Raises RuntimeError when the difference is over 1e-4; over 5e-2 of the largest reward (at least of 1)
    where the trained weights are in 16 bits or fewer, autocast cannot be left (ZeRO-3 and FSDP in bf16, QLoRA), or
    float32 is multiplied as TF32.
    """
    answer = [""]
    if trainer.is_world_process_zero():
        try:
            reloaded = reloaded_numbers(directory, sequences, trust_remote_code, token_ids, flags)
            differences = [abs(a - b) for a, b in zip(rewards, reloaded, strict=True)]
            answer = [str(np.max(differences))]  # the built-in max passes over a NaN
        except RuntimeError as error:
            answer = [f"failed: {error}"]
    answer = broadcast_object_list(answer)
    if answer[0].startswith("failed"):
        raise RuntimeError(f"{directory} was written but cannot be read back: {answer[0]}")
    difference = float(answer[0])
    largest = max(1.0, *map(abs, rewards))
    tolerance = FLOAT32_TOLERANCE if _predicts_in_float32(trainer) else ROUNDED_TOLERANCE * largest
    if not difference <= tolerance:  # NaN fails too
        raise RuntimeError(
            f"{directory} was written, but its rewards differ from the trained model's by {difference:.2g} "
            f"(allowed: {tolerance:.0e}); do not use it"
        )
    return difference


def reloaded_numbers(
    directory: Path,
    sequences: Sequence[Sequence[int]],
    trust_remote_code: bool = False,
    token_ids: Sequence[int] = (),
    flags: Sequence[str] = (),
) -> list[float]:
    """What `check_saved.py` finds in a process of its own: a reward per sequence, or the logits of `token_ids` behind
    each, or what its `flags` say. Raises RuntimeError when the directory cannot be loaded there."""
    command = [str(directory), *flags, *(["--trust_remote_code"] if trust_remote_code else [])]
    command += ["--token_ids", *map(str, token_ids)] if token_ids else []
    text = _run_alone(check_saved.__file__, command, json.dumps([list(ids) for ids in sequences]))
    return json.loads(text.splitlines()[-1])


def _predicts_in_float32(trainer: Trainer) -> bool:
    """Whether `in_float32` reaches all of the model: its weights, and whatever casts them."""
    model: Any = trainer.model
    if any(weight.dtype != torch.float32 for weight in model.parameters()):
        return False
    if torch.backends.cuda.matmul.fp32_precision == "tf32":  # --tf32, --torch_compile: a mantissa of 10 bits
        return False
    can_leave_autocast = any(hasattr(module, "autocast_off") for module in model.modules())
    in_16_bits = trainer.args.bf16 or trainer.args.fp16
    return not in_16_bits or (can_leave_autocast and not trainer.is_fsdp_enabled)


def _run_alone(script: str, arguments: list[str], standard_input: str = "") -> str:
    """Run a script of ours on the CPU, outside the group of processes; returns its output. RuntimeError if it fails."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC", "ACCELERATE_", "FSDP_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(launcher)}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    folders = [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]  # useful_code, installed or copied
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    finished = subprocess.run(
        [sys.executable, script, *arguments], input=standard_input, env=environment, capture_output=True, text=True
    )
    if finished.returncode != 0:
        raise RuntimeError(f"{Path(script).name} failed: {finished.stderr.strip()[-2000:]}")
    return finished.stdout
