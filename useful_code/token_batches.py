"""Batches filled by tokens instead of by rows: the memory of a step stays the same, however long the texts are."""

import bisect
import random
from collections.abc import Iterable, Iterator, Sequence

from torch.utils.data import Sampler

from useful_code.user_errors import UserError


class TokenBudgetSampler(Sampler[list[int]]):
    """Batches of row indices, each within `max_tokens`; their number is a multiple of `num_processes`.

    Rows are shuffled once with `seed` and filled greedily, so a batch is a random sample; the order of the batches
    changes with every epoch. When the number does not fit the processes, the largest batches are halved; where that
    is not enough because nearly every row fills a batch alone, rows are packed by length instead. No row is lost and
    none comes twice. Raises UserError for a row over the budget, for fewer rows than processes, and where so few rows
    fit together that the batches cannot be dealt evenly.

    >>> sorted(len(batch) for batch in TokenBudgetSampler([5, 5, 5, 5, 5], max_tokens=10, seed=0))
    [1, 2, 2]
    """

    def __init__(self, num_tokens: Sequence[int], max_tokens: int, seed: int, num_processes: int = 1):
        if len(num_tokens) < num_processes:
            raise UserError(f"{len(num_tokens)} rows cannot feed {num_processes} processes; give more rows")
        longest = max(num_tokens)
        if longest > max_tokens:
            raise UserError(
                f"a row has {longest} tokens, over --max_tokens_per_batch {max_tokens}: raise it, or lower --max_length"
            )
        order = list(range(len(num_tokens)))
        random.Random(seed).shuffle(order)
        self.batches = fill_in_order(order, num_tokens, max_tokens)
        most = len(num_tokens) // num_processes * num_processes  # batches that can be dealt evenly
        if len(self.batches) > most:
            self.batches = _best_fit(num_tokens, max_tokens)
        if len(self.batches) > most:
            raise UserError(
                f"{len(num_tokens)} rows cannot be dealt evenly to {num_processes} processes: nearly each needs a "
                f"batch of {max_tokens} tokens alone. Raise --max_tokens_per_batch ({2 * longest} is enough for sure)"
            )
        while len(self.batches) % num_processes:
            largest = max(self.batches, key=len)
            half = len(largest) // 2
            self.batches.append(largest[half:])
            del largest[half:]
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer; a resumed run meets the same order again."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.batches)
        random.Random(f"{self.seed}:{self.epoch}").shuffle(order)
        return iter(order)


def fill_in_order(order: Iterable[int], num_tokens: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Take the rows in `order`; begin a new batch when the next one does not fit. A row over the limit stands alone."""
    batches: list[list[int]] = []
    room = 0
    for index in order:
        if not batches or num_tokens[index] > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(index)
        room -= num_tokens[index]
    return batches


def _best_fit(num_tokens: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Fewer batches, but not random ones: longest row first, each into the fullest batch that has room for it."""
    batches: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # room and number of each batch, sorted
    for index in sorted(range(len(num_tokens)), key=lambda i: -num_tokens[i]):
        place = bisect.bisect_left(rooms, (num_tokens[index], -1))
        if place == len(rooms):
            room, number = max_tokens, len(batches)
            batches.append([])
        else:
            room, number = rooms.pop(place)
        batches[number].append(index)
        bisect.insort(rooms, (room - num_tokens[index], number))
    return batches
