r"""ArmoRM, stage 2: a gate that sees the prompt alone learns how much every rating counts.

    g     = scale * softmax(MLP(prompt embedding) / 10)                       arXiv 2406.12845, section 2.2
    score = sum_k g_k r'_k,   r' = rewards T: ratings without the part that follows verbosity (debias.py)
    loss  = mean over pairs of softplus(-(score_chosen - score_rejected))

    python armo-rm/train_gating.py --objectives runs/armo/objectives --embeddings embeddings/pairs \
        --output runs/armo/gate

Only the gate and its scale are trained; the gate is computed once per pair, since both answers have one prompt. Minutes
on a CPU. Penalties are chosen on the answers of --reference (default: of the training pairs). Prompts that the
objectives were not fitted on are held out here too.

Output: armorm.safetensors (all tensors beside the decoder's), armorm.json (objectives, penalties, held-out accuracy),
report.html, run.json. Next: export_armorm.py. To compare: --no_debias, --gate constant, --gate uniform.

Shapes: B pairs, D hidden size, K objectives.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from debias import GRID, THRESHOLD, Penalty, penalties, transform_matrix
from embedding_files import read_card, read_parts
from gating_report import write_gating_report
from option_checks import check_options
from pairs_rated import add_split_arguments, check_same_decoder, held_out_mask, load_rated_pairs, outcomes_of
from safetensors.torch import save
from torch import nn
from tqdm import trange

from useful_code import metrics
from useful_code.armorm_model import GatingNetwork
from useful_code.atomic_write import write_atomically
from useful_code.reward_model import best_device
from useful_code.run_info import write_run_info
from useful_code.user_errors import UserError, exit_cleanly

TEMPERATURE = 10.0
SCALE_STEP = 10.0  # the scale's learning rate, in parts of its size: a network's weights change by more than their own


# --- the method ---


def gated_scores(
    gating_output: torch.Tensor,  # (B, K)
    rewards: torch.Tensor,  # (B, 2, K) chosen, rejected
    transform: torch.Tensor,  # (K, K)
) -> torch.Tensor:
    """Scores (B, 2): the same weights for both answers of a prompt."""
    return (gating_output[:, None] * (rewards @ transform)).sum(-1)


def ranking_losses(scores: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Bradley-Terry pair by pair (B,), from scores (B, 2) and the probability (B,) that chosen is preferred."""
    chosen, rejected = scores.float().unbind(1)
    delta = chosen - rejected
    return label * F.softplus(-delta) + (1 - label) * F.softplus(delta)


def new_gate(kind: str, in_features: int, num_objectives: int, hidden_dim: int, n_hidden: int, seed: int):
    """The gate: of the prompt; "constant", the same learnt weights for every prompt; or "uniform", equal weights.

    All three are one network. Without a weight in its last layer it cannot see the prompt.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gate = GatingNetwork(in_features, num_objectives, TEMPERATURE, hidden_dim, n_hidden)
    if kind != "prompt":
        last = gate.layers[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        gate.layers.requires_grad_(False)
        last.bias.requires_grad_(kind == "constant")
    return gate


def starting_scale(
    rewards: torch.Tensor,  # (N, 2, K)
    label: torch.Tensor,  # (N,)
    transform: torch.Tensor,  # (K, K)
) -> float:
    """The scale, of 1 to 100, at which equal weights have the least loss.

    Ratings differ by tenths and log-odds by several: from 1 the optimizer would need many thousand steps. And as long
    as the scale is too small, the least loss has all weight on the one rating that differs most.
    """
    margins = gated_scores(torch.full(rewards.shape[::2], 1 / rewards.shape[-1]), rewards, transform)  # (N, 2)
    scales = torch.logspace(0, 2, 41)
    losses = torch.stack([ranking_losses(scale * margins, label).mean() for scale in scales])
    return scales[losses.argmin()].item()


def train_gate(
    gate: GatingNetwork,
    prompts: torch.Tensor,  # (N, D)
    rewards: torch.Tensor,  # (N, 2, K)
    label: torch.Tensor,  # (N,)
    transform: torch.Tensor,  # (K, K)
    arguments: argparse.Namespace,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train in place on batches drawn with replacement, everything from the seed; the loss of every 50th step or so."""
    torch.manual_seed(arguments.seed)  # of the dropout
    scale = starting_scale(rewards, label, transform.cpu())
    nn.init.constant_(gate.logit_scale, scale)
    layers = [parameter for parameter in gate.layers.parameters() if parameter.requires_grad]
    groups = [{"params": [gate.logit_scale], "lr": arguments.learning_rate * SCALE_STEP * scale}]
    groups += [{"params": layers, "lr": arguments.learning_rate}] if layers else []
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.max_steps)
    generator = torch.Generator().manual_seed(arguments.seed)
    log = []
    steps = trange(arguments.max_steps, desc="gate", disable=not progress)
    for step in steps:
        rows = torch.randint(len(prompts), (arguments.batch_size,), generator=generator)
        output = gate(prompts[rows].to(arguments.device), dropout=arguments.dropout)  # (B, K)
        scores = gated_scores(output, rewards[rows].to(arguments.device), transform)
        loss = ranking_losses(scores, label[rows].to(arguments.device)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            gate.logit_scale.clamp_(min=0.0)  # below 0 verbosity would count for an answer
        schedule.step()
        if step % 50 == 0 or step == arguments.max_steps - 1:
            right = (scores[:, 0] > scores[:, 1]).float().mean()
            log.append({"step": step + 1, "loss": loss.item(), "accuracy": right.item()})
            steps.set_postfix(loss=f"{loss.item():.4f}")
    return log


# --- data ---


def reference_answers(directories: list[str], weights: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Ratings (N, K) and lengths in tokens (N,) of all answers of the folders, pairs or rated rows."""
    rewards, lengths = [], []
    for directory in directories:
        for part in read_parts(directory, ["response"]):
            rewards.append((part.tensors["response"] @ weights.T).reshape(-1, len(weights)))
            lengths += [length for row in part.rows for length in row["num_tokens"]]
    return torch.cat(rewards).numpy(), np.array(lengths, dtype=float)


def verbosity_index(names: list[str], asked: str | None) -> int:
    """Which objective is verbosity: the one asked for, or the only one whose name says so. Raises UserError."""
    found = [name for name in names if "verbosity" in name.lower()] if asked is None else [asked]
    if len(found) != 1 or found[0] not in names:
        raise UserError(
            f"--verbosity_objective must name one of {', '.join(names)}"
            + ("; none has verbosity in its name" if not found else "")
            + ", or say --no_debias"
        )
    return names.index(found[0])


def held_out_numbers(scores: torch.Tensor, label: torch.Tensor, rows: list[dict]) -> dict[str, Any]:
    """Accuracy on pairs, its interval with prompts resampled, loss, and how scores (N, 2) follow length in tokens."""
    pairs = scores.double().numpy()
    lengths = np.array([row["num_tokens"] for row in rows], dtype=float)  # (N, 2)
    margins = pairs[:, 0] - pairs[:, 1]
    outcomes = outcomes_of(margins, label.numpy())
    return {
        "pairs": len(rows),
        "accuracy": float(outcomes.mean()),
        "interval": list(metrics.bootstrap_interval(outcomes, groups=[row["prompt"] for row in rows])),
        "loss": ranking_losses(scores, label).mean().item(),
        "length": metrics.length_report(pairs.flatten(), lengths.flatten(), margins, lengths[:, 0] - lengths[:, 1]),
    }


# --- the run ---


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--objectives", required=True, help="Folder that fit_objectives.py wrote.")
    add("--embeddings", nargs="+", required=True, help="Folders of pairs (extract_embeddings.py), of the same decoder.")
    add("--output", required=True, help="Folder to write.")
    add("--reference", nargs="+", default=None, help="Folders whose answers choose the penalties; else the pairs.")
    add("--verbosity_objective", default=None, help="Name of the rating that is taken out of the others.")
    add("--threshold", type=float, default=THRESHOLD, help="Largest Spearman correlation that may be left.")
    add("--debias_by", choices=["verbosity", "length"], default="verbosity", help="Predicted rating, or tokens.")
    add("--no_debias", action="store_true", help="Leave the ratings as they are, to compare.")
    add("--gate", choices=["prompt", "constant", "uniform"], default="prompt", help="See new_gate; to compare.")
    add("--gating_hidden_dim", type=int, default=1024, help="Width of the gate.")
    add("--gating_n_hidden", type=int, default=3, help="Hidden layers of the gate.")
    add("--dropout", type=float, default=0.2, help="Of the hidden layers, in training.")
    add("--learning_rate", type=float, default=1e-3, help="Peak, falling to 0 as a cosine.")
    add("--max_steps", type=int, default=2000, help="Optimizer steps.")
    add("--batch_size", type=int, default=1024, help="Pairs of a step, drawn with replacement.")
    add_split_arguments(parser)
    add("--seed", type=int, default=0, help="Of the first weights and the batches.")
    return parser.parse_args()


def main() -> None:
    started_at = time.time()
    arguments = parse_arguments()
    check_options(arguments)
    arguments.device = best_device()
    record, weights, rows, prompts, rewards = load_rated_pairs(arguments.objectives, arguments.embeddings)
    names = [one["name"] for one in record["objectives"]]
    check_same_decoder(record, [read_card(directory) for directory in arguments.reference or ()])
    label = torch.tensor([row.get("label", 1.0) for row in rows])
    held_out = held_out_mask(rows, record, arguments.held_out_share, arguments.split_seed)

    found: list[Penalty] | None = None
    transform = torch.eye(len(names))
    if not arguments.no_debias:
        verbosity = verbosity_index(names, arguments.verbosity_objective)
        if len(names) == 1:
            raise UserError(
                f"{names[0]!r} is the only rating, and without it none is left: fit more objectives, or say --no_debias"
            )
        if arguments.reference:
            answers, lengths = reference_answers(arguments.reference, weights)
        else:
            answers = rewards[~held_out].reshape(-1, len(names)).numpy()
            lengths = np.array(
                [n for row, out in zip(rows, held_out, strict=True) if not out for n in row["num_tokens"]]
            )
        target = lengths.astype(float) if arguments.debias_by == "length" else None
        found = penalties(answers, verbosity, arguments.threshold, GRID, target)
        transform = torch.from_numpy(transform_matrix([penalty.size for penalty in found], verbosity))

    gate = new_gate(
        arguments.gate,
        prompts.shape[1],
        len(names),
        arguments.gating_hidden_dim,
        arguments.gating_n_hidden,
        arguments.seed,
    ).to(arguments.device)
    train = ~held_out
    log = train_gate(gate, prompts[train], rewards[train], label[train], transform.to(arguments.device), arguments)

    gate.cpu().eval()
    rows = [row for row, out in zip(rows, held_out, strict=True) if out]
    with torch.inference_mode():
        output = gate(prompts[held_out])  # (N, K)
        equal = torch.full_like(output, 1 / len(names))
        numbers, numbers_of_equal = (
            held_out_numbers(gated_scores(weights_of, rewards[held_out], transform), label[held_out], rows)
            for weights_of in (output, equal)
        )
    tensors = {"regression_layer.weight": weights, "reward_transform_matrix": transform}
    tensors |= {f"gating.{name}": value.detach() for name, value in gate.state_dict().items()}
    folder = Path(arguments.output)
    write_atomically(folder / "armorm.safetensors", save({name: value.contiguous() for name, value in tensors.items()}))
    description = {
        "objectives": record["objectives"],
        "scaling": record["scaling"],
        "model": record["model"],
        **{name: record[name] for name in ("gating_tokens", "probe")},
        "scale": gate.logit_scale.item(),
        "gating_temperature": TEMPERATURE,
        "gating_hidden_dim": arguments.gating_hidden_dim,
        "gating_n_hidden": arguments.gating_n_hidden,
        "gate": arguments.gate,
        "penalties": None if found is None else [penalty._asdict() for penalty in found],
        "held_out": {"gate": numbers, "equal weights": numbers_of_equal},
    }
    write_atomically(folder / "armorm.json", json.dumps(description, indent=1, ensure_ascii=False) + "\n")
    coefficients = (output @ transform.T).numpy()  # (N, K) on the ratings as they are
    write_gating_report(folder, names, description, coefficients, rows, log)
    arguments.device = str(arguments.device)
    write_run_info(folder, vars(arguments), started_at, held_out=description["held_out"], num_train=int(train.sum()))


if __name__ == "__main__":
    exit_cleanly(main)
