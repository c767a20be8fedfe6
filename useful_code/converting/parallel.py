"""A map over several processes that keeps the order and looks only a little ahead."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import wait
from typing import Any, TypeVar

from useful_code.user_errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 4  # items per process that are waiting or done and not yet taken: bounds the memory
_function: Any = None  # of this worker: sent once, not with every item


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], num_proc: int = 1
) -> Generator[Result, None, None]:
    """`map(function, items)`; with `num_proc` > 1 in that many processes. Results come in the order of the items.

    Raises `UserError` if a process is killed. The processes end with the one that started them, however it ends.

    >>> list(ordered_map(len, ["a", "bc"]))
    [1, 2]
    """
    if num_proc == 1:
        yield from map(function, items)
        return
    # "spawn": a forked copy of a process that runs threads (pyarrow) may hang.
    pool = ProcessPoolExecutor(num_proc, get_context("spawn"), _begin, (function,))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            with _without_interrupt():  # an item may start a process
                waiting.append(pool.submit(_call, item))
            if len(waiting) >= AHEAD * num_proc:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "one of the processes was killed, perhaps for want of memory; with a smaller --num_proc the same command "
            "goes on where this one stopped"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _without_interrupt() -> Iterator[None]:
    """Ctrl-C waits until this is over, and a process that is started meanwhile never hears it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # each new process asks for it; to start it would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(function: Callable) -> None:
    """In a worker: only the first process hears Ctrl-C, and without it nobody takes the results."""
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _call(item: Any) -> Any:
    return _function(item)
