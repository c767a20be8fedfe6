"""A map over processes: the results of `map`, in order, only a little ahead, and no process is left behind."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from useful_code.converting import parallel
from useful_code.converting.parallel import AHEAD, ordered_map
from useful_code.reasons import RowRefused
from useful_code.user_errors import UserError

NUMBERS = [1, 2, 3]


def square_slowly(number):
    """The earlier items take longer, so that results are ready in the wrong order."""
    time.sleep(0.2 if number == 0 else 0.02 * (number % 3))
    return number * number


def own_process(_):
    time.sleep(0.01)
    return os.getpid()


def fail_at_five(number):
    if number == 5:
        raise ERRORS[os.environ["ERROR_OF_TEST"]]
    return number


ERRORS = {
    "value": ValueError("five", 5),
    "refused": RowRefused("wrong_type", "five is no text"),
    "user": UserError("five: cannot be used; give four"),
}


def no_process_is_left():
    """Of those that this one started; asking also removes those that have ended."""
    return multiprocessing.active_children() == []


@pytest.mark.parametrize("num_proc", NUMBERS)
def test_results_are_those_of_map_in_the_order_of_the_items(num_proc):
    for items in (range(3 * AHEAD * num_proc + 1), [3], []):
        made = ordered_map(square_slowly, (number for number in items), num_proc)
        assert list(made) == [number * number for number in items]
    assert no_process_is_left()


def test_the_work_is_done_in_other_processes_and_at_most_as_many_as_were_asked_for():
    used = set(ordered_map(own_process, range(40), 2))
    assert os.getpid() not in used and 1 <= len(used) <= 2
    assert set(ordered_map(own_process, range(3))) == {os.getpid()}, "one process needs no other"


def counted(items, taken):
    for item in items:
        taken.append(item)
        yield item


@pytest.mark.parametrize("num_proc", NUMBERS)
def test_only_a_little_of_an_endless_input_is_taken_ahead(num_proc):
    taken = []
    with closing(ordered_map(abs, counted(itertools.count(), taken), num_proc)) as results:
        assert taken == [], "nothing happens before the first result is asked for"
        for number in range(50):
            assert next(results) == number
            ahead = len(taken) - (number + 1)
            assert 0 <= ahead < AHEAD * num_proc and (num_proc > 1 or ahead == 0)
        if num_proc > 1:
            assert ahead >= num_proc, "every process has something to do while the consumer is busy"
    assert no_process_is_left()


@pytest.mark.parametrize("num_proc", [1, 2])
@pytest.mark.parametrize("name", ERRORS)
def test_an_exception_of_the_function_arrives_as_it_was_raised_after_the_results_before_it(monkeypatch, num_proc, name):
    monkeypatch.setenv("ERROR_OF_TEST", name)
    results = ordered_map(fail_at_five, range(10**9), num_proc)
    assert list(itertools.islice(results, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(type(ERRORS[name])) as error:
        next(results)
    assert type(error.value) is type(ERRORS[name]) and error.value.args == ERRORS[name].args
    assert vars(error.value) == vars(ERRORS[name]) and str(error.value) == str(ERRORS[name])
    assert next(results, None) is None and no_process_is_left()


@pytest.mark.parametrize("num_proc", [1, 2])
def test_an_exception_of_the_items_arrives_as_it_was_raised(num_proc):
    def items():
        yield -1
        raise UserError("raw.jsonl: not valid JSON")

    with pytest.raises(UserError, match="^raw.jsonl: not valid JSON$"):
        list(ordered_map(abs, items(), num_proc))
    assert no_process_is_left()


@pytest.mark.parametrize("how", ["close", "interrupt", "abandon"])
def test_no_process_is_left_when_the_consumer_stops_early(how):
    results = ordered_map(square_slowly, itertools.count(), 2)
    assert next(results) == 0 and len(multiprocessing.active_children()) == 2
    if how == "close":
        results.close()
    elif how == "interrupt":
        with pytest.raises(KeyboardInterrupt):
            results.throw(KeyboardInterrupt)
    else:
        del results
    assert no_process_is_left()


def mark_slowly(path):
    Path(path).touch()
    time.sleep(0.05)


def test_what_was_not_begun_is_not_done_after_an_early_close(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "AHEAD", 60)
    marks = [str(tmp_path / str(number)) for number in range(120)]
    with closing(ordered_map(mark_slowly, marks, 2)) as results:
        next(results)
    assert 1 <= len(list(tmp_path.iterdir())) < len(marks)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # an orphan that has ended may wait for somebody to ask how
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


SCRIPT = """
import itertools, multiprocessing, signal, sys
from useful_code.converting import parallel
from useful_code.converting.parallel import ordered_map

def hears_ctrl_c(_):
    return multiprocessing.current_process().pid, signal.getsignal(signal.SIGINT) is not signal.SIG_IGN

if __name__ == "__main__":
    seen = {}
    for pid, hears in ordered_map(hears_ctrl_c, itertools.count(), 2):
        seen[pid] = hears
        if len(seen) == 2 and not any(seen.values()):
            print(*seen, flush=True)
            seen = {0: 0, 1: 1, 2: 2}
"""


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_one_that_started_it(tmp_path, how):
    """A terminal sends SIGINT to the whole group, the worker processes too; of a kill only the first one hears."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py")]
    with open(tmp_path / "errors", "w") as errors:  # no pipe, which a process that is left would keep open
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    watchdog = threading.Timer(40, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    try:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
        assert process.wait() == -how and len(workers) == 2
        spoken = 1 if how == signal.SIGINT else 0  # by the first process; the others are silent
        said = (tmp_path / "errors").read_text()
        assert said.count("Traceback") == said.count("KeyboardInterrupt") == spoken, said
        end = time.monotonic() + 20  # a killed process cannot wait for the others
        while any(is_running(pid) for pid in workers):
            assert how == signal.SIGKILL and time.monotonic() < end, "a process is left"
            time.sleep(0.01)
    finally:
        watchdog.cancel()
        process.stdout.close()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
