"""Pearson's correlation over more pairs than one process has in one forward pass, with an exact gradient.

Across processes the numbers of all are gathered; across forward passes running moments remember the earlier ones.

Shapes: N points, anything (...) that is computed for each by itself.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers import TrainerCallback

from useful_code.atomic_write import write_atomically
from useful_code.training.checkpoints import PREFIX
from useful_code.user_errors import UserError

MIN_POINTS, MIN_VARIANCE = 3, 1e-12  # below, a correlation is not defined


class Moments(NamedTuple):
    """What is remembered of earlier points: their weight, and means (...) under it."""

    weight: float  # in points
    mean_x: torch.Tensor
    mean_y: torch.Tensor
    variance_x: torch.Tensor
    variance_y: torch.Tensor
    covariance: torch.Tensor

    def is_finite(self) -> bool:
        return all(bool(tensor.isfinite().all()) for tensor in self[1:])

    def is_defined(self) -> torch.Tensor:
        """Which correlations (...) there are: of three points or more, neither side of which is constant."""
        defined = torch.full_like(self.covariance, self.weight) > MIN_POINTS - 0.5  # earlier points fade a little
        for variance, mean in ((self.variance_x, self.mean_x), (self.variance_y, self.mean_y)):
            defined &= variance > MIN_VARIANCE * (1 + mean.square())  # what rounding leaves of a constant grows with it
        return defined

    def noise(self, num_points: int) -> float:
        """Standard error of a correlation near 0 over a window that is more than the last `num_points`; else 0."""
        return self.weight**-0.5 if self.weight > num_points else 0.0


def smoothed_size(rho: torch.Tensor, noise: float) -> torch.Tensor:
    """|rho|, rounded near 0: the mean of |rho + noise z| over a standard normal z, less what that is at 0.

    A batch has this by chance: near 0 its rho changes sign from step to step. That of running moments keeps its sign
    for many steps, and |rho| would push on past 0, forth and back, with its whole force.

    >>> [round(size, 3) for size in smoothed_size(torch.tensor([0.0, 0.1, 0.9]), noise=0.1).tolist()]
    [0.0, 0.037, 0.82]
    """
    if noise == 0:
        return rho.abs()
    z = rho / noise
    return rho * torch.erf(z / 2**0.5) + noise * (2 / torch.pi) ** 0.5 * torch.expm1(-z.square() / 2)


def correlation(
    x: torch.Tensor,  # (N, ...)
    y: torch.Tensor,  # (N, ...)
    past: Moments | None = None,
    window: float = 0,
) -> tuple[torch.Tensor, Moments]:
    """Pearson's correlation along the first dimension (...), and the moments to give as `past` next time.

    Earlier points fade so that about `window` points count in all: running moments. Without a past, or where N is
    `window` or more, these N count alone. 0 without a gradient where it is not defined (`Moments.is_defined`).

    The gradient is as large as if the N points were the whole window: the exact one where they count alone, else an
    estimate of it from N points, for values and signs that are those of the window.

    >>> correlation(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 4.0, 8.0]))[0].item()
    1.0
    """
    x, y, num_points = x.float(), y.float(), len(x)
    if past is None:
        zeros = torch.zeros_like(x[0]).detach()
        past = Moments(0.0, zeros, zeros, zeros, zeros, zeros)
    weight = num_points + past.weight * max(0.0, 1 - num_points / max(window, num_points))
    share = num_points / weight  # of these points
    old_mean_x, old_mean_y, *old_seconds = (tensor.to(x.device) for tensor in past[1:])
    here_x, here_y = x.detach().mean(0), y.detach().mean(0)
    mean_x, mean_y = torch.lerp(old_mean_x, here_x, share), torch.lerp(old_mean_y, here_y, share)
    # Around the mean of all: these points, and the earlier mean. Around their own mean: these points.
    of_x = (x - mean_x, old_mean_x - mean_x, x - here_x)
    of_y = (y - mean_y, old_mean_y - mean_y, y - here_y)
    seconds = []
    for (a, old_a, inner_a), (b, old_b, inner_b), old in zip(
        (of_x, of_y, of_x), (of_x, of_y, of_y), old_seconds, strict=True
    ):
        value = share * (a * b).mean(0) + (1 - share) * (old + old_a * old_b)
        inner = (a * b).mean(0)
        if num_points > 1:
            # The chance distance of the two means would push all points the same way: around their own mean it is
            # gone, and the factor makes up for the part of the covariance that goes with it on average.
            inner = (inner_a * inner_b).mean(0) * (num_points - share) / (num_points - 1)
        seconds.append(value.detach() + inner - inner.detach())  # the value of all, the gradient of these
    variance_x, variance_y, covariance = seconds
    moments = Moments(weight, mean_x, mean_y, *(second.detach() for second in seconds))
    defined = moments.is_defined()
    size = torch.where(defined, variance_x, 1).sqrt() * torch.where(defined, variance_y, 1).sqrt()
    return torch.where(defined, covariance / size, 0), moments


def gather_rows(values: torch.Tensor, accelerator) -> torch.Tensor:
    """The rows (N, ...) of all processes, from those of this one, whose number may differ from process to process.

    Rows of other processes carry no gradient; those of this one carry it times the number of processes, because the
    gradients of all processes are averaged later. So a loss of all rows has its exact gradient, and its own value.
    """
    num_processes = accelerator.num_processes
    if num_processes == 1:
        return values
    counts = accelerator.gather(torch.tensor([len(values)], device=values.device)).tolist()
    missing = max(counts) - len(values)
    padded = F.pad(values.detach(), (0, 0) * (values.dim() - 1) + (0, missing))
    parts = list(accelerator.gather(padded).split(max(counts)))
    parts = [part[:count] for part, count in zip(parts, counts, strict=True)]
    parts[accelerator.process_index] = values.detach() + num_processes * (values - values.detach())
    return torch.cat(parts)


class MomentsInCheckpoints(TrainerCallback):
    """Keeps the `past` of `correlation` in every checkpoint, so that a resumed run has the losses of an uninterrupted
    one. All processes hold the same moments; the main one writes them. Raises UserError where they are of other
    heads."""

    FILE = "correlation_moments.json"

    def __init__(self, heads: Sequence[str], checkpoint: str | None = None):
        self.heads = list(heads)
        self.past: Moments | None = None
        if checkpoint and (file := Path(checkpoint) / self.FILE).exists():
            record = json.loads(file.read_text(encoding="utf-8"))
            if record["heads"] != self.heads:
                raise UserError(
                    f"{checkpoint} has the heads {', '.join(record['heads'])}, and {', '.join(self.heads)} were asked "
                    "for: go on with the --further_heads of that run"
                )
            weight, *means = record["moments"]
            self.past = Moments(weight, *map(torch.tensor, means))

    def keep(self, moments: Moments) -> None:
        """As the past of the next forward pass; not where a pass overflowed, for nan would never leave again."""
        if moments.is_finite():
            self.past = moments

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero and self.past is not None:
            numbers = [self.past.weight, *(tensor.tolist() for tensor in self.past[1:])]
            record = json.dumps({"heads": self.heads, "moments": numbers})
            write_atomically(Path(args.output_dir) / f"{PREFIX}-{state.global_step}" / self.FILE, record)
