"""Several ways to compute the same numbers, taking turns in one process: seconds, ratios, what counting promises."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from machine import matmul_flops
from operations import Work

from useful_code.user_errors import UserError

# Of two numbers for one text; more means that the sides read different texts. bfloat16 has 8 bits for a number.
MAX_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}


def compare_sides(
    calls: Mapping[str, Callable[[], Sequence[float]]],  # the first side is ours, the second the batched baseline
    work: Mapping[str, Work],
    operations_of: Callable[[Work], int],
    num_pairs: int,
    turns: int,
    dtype: torch.dtype,
) -> dict:
    """Medians of seconds over the turns, ratios turn by turn, and the bounds against the batched baseline.

    Every side is called once before the clock runs. Raises UserError when the sides do not give the same numbers.
    """
    sides = tuple(calls)
    ours, baseline = sides[:2]
    for call in calls.values():
        call()  # loads the model; the first call of anything is slow
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    numbers, peaks = {}, []
    for turn in range(turns):
        for side in sides if turn % 2 == 0 else sides[::-1]:
            start = time.perf_counter()
            numbers[side] = calls[side]()
            seconds[side].append(time.perf_counter() - start)
        peaks.append(matmul_flops(dtype=dtype))
    difference = max(abs(a - b) for side in sides[1:] for a, b in zip(numbers[ours], numbers[side], strict=True))
    if not difference <= MAX_DIFFERENCE[dtype]:
        raise UserError(f"the sides do not agree: two scores of one conversation differ by {difference}")
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    ratios = {
        side: statistics.median(b / a for a, b in zip(seconds[ours], seconds[side], strict=True)) for side in sides[1:]
    }
    tokens = {side: work[side][0] for side in sides}
    operations = {side: operations_of(work[side]) for side in sides}
    bound = tokens[baseline] / tokens[ours]
    peak = statistics.median(peaks)
    return {
        "pairs": num_pairs,
        "turns": turns,
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": medians,
        "seconds_of_turns": seconds,
        "pairs_per_second": {side: num_pairs / value for side, value in medians.items()},
        "tokens": tokens,
        "tokens_per_second": {side: tokens[side] / medians[side] for side in sides},
        "ratio": ratios,
        "bound": bound,
        "share_of_bound": ratios[baseline] / bound,
        "bound_by_operations": operations[baseline] / operations[ours],
        "matmul_gflops": peak / 1e9,
        "share_of_matmul_peak": {side: operations[side] / medians[side] / peak for side in sides},
        "max_difference_of_scores": difference,
    }
