"""A map over several processes that keeps the order and looks only a little ahead."""

import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 4  # items per process that are waiting or done and not yet taken: bounds the memory


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], num_proc: int = 1
) -> Generator[Result, None, None]:
    """`map(function, items)`; with `num_proc` > 1 in that many processes. Results come in the order of the items.

    >>> list(ordered_map(len, ["a", "bc"]))
    [1, 2]
    """
    if num_proc == 1:
        yield from map(function, items)
        return
    # "spawn": a forked copy of a process that runs threads (pyarrow) may hang. Only the first process hears Ctrl-C.
    pool = ProcessPoolExecutor(num_proc, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= AHEAD * num_proc:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
