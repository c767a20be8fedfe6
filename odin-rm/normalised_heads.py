"""A quality head and nuisance heads on one model; in the end the quality head alone, as a plain one-label classifier.

Every row has unit length before it scores anything: w~ = w / max(|w|, 1e-8). Without that a quality row of zero would
be a perfect answer to the length terms of the loss.

Shapes: S sequences, D hidden size, K heads: quality first, then K - 1 nuisances.
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import distribute_tensor
from transformers import Trainer
from trl import ModelConfig

from useful_code.atomic_write import write_atomically
from useful_code.reward_model import Float32Linear, in_float32, load_reward_model
from useful_code.training.save_load import check_saved_rewards, save_model
from useful_code.training.trainable import load_to_train, model_path
from useful_code.user_errors import UserError

# The row (D,) of every head under its name. In a folder: servers read all *.safetensors beside a model as its weights.
ROWS_FILE = "heads/odin_heads.safetensors"
NAMES_FILE = "odin_heads.json"


def normalised(rows: torch.Tensor) -> torch.Tensor:
    """Rows (K, D) of unit length, in float32.

    >>> normalised(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return F.normalize(rows.float(), dim=-1, eps=1e-8)


class NormalisedHeads(nn.Linear):
    """Scores (S, K) in float32 and the cosine of every nuisance row with the quality row (K - 1,).

    The quality row is called `weight` (1, D), as in any one-label classifier, and the others are parameters of the same
    module: LoRA, ZeRO-3, checkpoints and `--train_last_layers` treat them all as the head. The cosines come out of the
    forward pass because only there are the rows of ZeRO-3 and FSDP whole.
    """

    nuisance_weight: nn.Parameter  # (K - 1, D)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            rows = normalised(torch.cat((self.weight, self.nuisance_weight)))  # (K, D)
            return F.linear(hidden.float(), rows), rows[1:] @ rows[0]


def add_nuisance_heads(model, num_nuisances: int, seed: int) -> None:
    """Put rows drawn from `seed` beside the one row of a model that `load_reward_model` loaded, in place."""
    head = getattr(model, "score", None)
    if not isinstance(head, Float32Linear) or head.bias is not None:
        raise UserError(
            f"{type(model).__name__} has a head of its own, and no second one can stand beside it: give a model whose "
            "head is one linear layer without a bias, as Transformers' own sequence classifiers of Llama, Qwen or Gemma"
        )
    # Not the seed of the quality row: equal rows could never come apart, their cosine is at its maximum.
    generator = torch.Generator().manual_seed(seed + 1)
    rows = torch.randn(num_nuisances, head.in_features, generator=generator) * getattr(
        model.config, "initializer_range", 0.02
    )
    head.__class__ = NormalisedHeads
    head.nuisance_weight = nn.Parameter(rows.to(head.weight.device, head.weight.dtype))


def load_trainable_heads(
    model_arguments: ModelConfig, num_nuisances: int, seed: int, train_last_layers: int | None, trust_remote_code: bool
):
    """The model that TRL's `ModelConfig` describes, with all heads, ready to train."""

    def load(path: str, **settings):
        model = load_reward_model(path, trust_remote_code, seed, **settings)
        add_nuisance_heads(model, num_nuisances, seed)
        return model

    # PEFT trains and saves the whole module `score` of a SEQ_CLS model beside the adapter.
    return load_to_train(model_arguments, load, lambda model: model.score, "SEQ_CLS", train_last_layers)


def heads_of(model) -> NormalisedHeads:
    """The heads that are trained; PEFT keeps a frozen copy beside them."""
    (heads,) = [
        module for module in model.modules() if isinstance(module, NormalisedHeads) and module.weight.requires_grad
    ]
    return heads


@torch.no_grad()
def keep_quality_head(model) -> torch.Tensor:
    """Leave one plain head in a trained model, in place: the normalised quality row, which gives the same scores.

    Called by all processes. Returns the normalised rows of all heads (K, D), on the CPU.
    """
    for module in model.modules():
        if hasattr(module, "reshard"):  # FSDP2: after a forward pass the module may hold its whole weights for a while
            module.reshard()
    heads = heads_of(model)
    with _whole_under_zero3(heads):
        rows = normalised(
            torch.cat([_whole_under_fsdp(weight).float() for weight in (heads.weight, heads.nuisance_weight)])
        )
        if hasattr(heads.weight, "full_tensor"):
            heads.weight.copy_(distribute_tensor(rows[:1], heads.weight.device_mesh, heads.weight.placements))
        else:
            heads.weight.copy_(rows[:1])
    del heads.nuisance_weight
    heads.__class__ = Float32Linear
    return rows.cpu()


def write_heads(directory: str | Path, names: Sequence[str], rows: torch.Tensor) -> None:
    """Write the rows (K, D) of the heads called `names` beside the model, and which of them the model has."""
    directory = Path(directory)
    (directory / ROWS_FILE).parent.mkdir(exist_ok=True)
    save_file({name: row.clone() for name, row in zip(names, rows, strict=True)}, directory / ROWS_FILE)
    record = {"heads": list(names), "score.weight": names[0], "rows": ROWS_FILE}
    write_atomically(directory / NAMES_FILE, json.dumps(record, indent=1) + "\n")


def save_quality_head(
    trainer: Trainer, model_arguments: ModelConfig, names: Sequence[str], rows: list[dict], trust_remote_code: bool
) -> float:
    """Keep the quality head, save, and compare its scores of `rows` (each with `ids`) before and after: the largest
    difference. The trainer predicts (N, 2, K) `rewards` first. Called by all processes; the model is not trained after.
    """
    with in_float32(trainer.model):
        rewards = trainer.predict(rows).predictions[0][..., 0]  # (N, 2)
    all_rows = keep_quality_head(trainer.model)  # (K, D)
    path, revision = model_path(model_arguments), model_arguments.model_revision
    directory = save_model(trainer, path, revision, trust_remote_code)
    if trainer.is_world_process_zero():
        write_heads(directory, names, all_rows)
    sequences = [ids for row in rows for ids in row["ids"]]
    return check_saved_rewards(trainer, directory, sequences, rewards.flatten().tolist(), trust_remote_code)


def _whole_under_zero3(heads: NormalisedHeads):
    """Whole parameters inside; what process 0 makes of them counts."""
    if not hasattr(heads.weight, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([heads.weight, heads.nuisance_weight], modifier_rank=0)


def _whole_under_fsdp(weight: torch.Tensor) -> torch.Tensor:
    """A copy of the whole of a parameter of which this process may hold a part."""
    return weight.full_tensor() if hasattr(weight, "full_tensor") else weight.detach().clone()
