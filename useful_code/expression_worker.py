"""Are two mathematical expressions equal? Asked of math-verify, in a process of its own.

    equal_expressions(r"2\\sqrt{3}", r"\\sqrt{12}")    # True

math-verify bounds its time by an alarm signal, which works in the main thread alone and would take the alarm of whoever
calls (a test runner, for one). Here it may take what it likes: a process that does not answer in time is killed, and
the next question starts another. Works from any thread; a forked process starts one of its own.
"""

import atexit
import json
import logging
import math
import os
import selectors
import subprocess
import sys
import threading
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from typing import Any
from zlib import crc32

if __name__ != "__main__":  # the worker needs nothing of ours
    from useful_code.user_errors import UserError

SECONDS = 5.0  # for one question
SECONDS_TO_START = 120.0  # imports sympy; long only on a busy machine
MEMORY_BYTES = 4 * 2**30

_lock = threading.Lock()
_worker: subprocess.Popen | None = None


def equal_expressions(first: str, second: str) -> bool:
    """Whether math-verify calls two expressions in LaTeX equal, in either order; False where it cannot tell in time.

    Raises UserError when the package math-verify is missing.

    >>> equal_expressions("x^2 + 2x + 1", "(x + 1)^2"), equal_expressions("x", "9^{9^{9^{9}}}")
    (True, False)
    """
    try:
        return _asked(*sorted((first, second))) == "true"  # sorted, so that the answer cannot depend on the order
    except _Unanswered:
        return False


def value_of_expression(expression: str) -> float | None:
    """A number that equal expressions share: the value with fixed numbers in place of letters, of a list a mean.

    None where there is none (equations, infinity), or where it cannot be told in time.

    >>> value_of_expression(r"\\frac{\\sqrt{9}}{2}"), value_of_expression("(1, 2]"), value_of_expression("x = y")
    (1.5, 1.7, None)
    """
    try:
        return json.loads(_asked(expression))
    except _Unanswered:
        return None


class _Unanswered(Exception):
    """Raised, because a returned value would be remembered: on a less busy machine there may be an answer."""


@lru_cache(maxsize=2**16)
def _asked(*texts: str) -> str:
    """What the worker says: of two expressions whether they are equal, of one its value; in JSON."""
    global _worker
    with _lock:
        try:
            if _worker is None or _worker.poll() is not None:
                _worker = _start()
            assert _worker.stdin
            _worker.stdin.write(json.dumps(texts) + "\n")
            _worker.stdin.flush()
            answer = _line(_worker, SECONDS)
        except OSError:  # the process died of the question before
            answer = ""
        except BaseException:  # Ctrl-C: an answer that nobody took would be the next question's
            _stop()
            raise
        if not answer:
            _stop()
            raise _Unanswered
        return answer


def _start() -> subprocess.Popen:
    if find_spec("math_verify") is None:
        raise UserError("comparing answers needs the package math-verify: pip install math-verify")
    command = [sys.executable, "-P", os.path.abspath(__file__)]  # -P: our folder must not hide a package
    worker = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        is_ready = _line(worker, SECONDS_TO_START) == "ready"
    except BaseException:
        worker.kill()
        raise
    if not is_ready:
        worker.kill()
        raise UserError("math-verify does not start; see what `python -c 'import math_verify'` says")
    return worker


def _line(worker: subprocess.Popen, seconds: float) -> str:
    """The next line of a worker, "" where none comes in time."""
    assert worker.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        return worker.stdout.readline().strip() if selector.select(seconds) else ""


def _stop() -> None:
    global _worker
    if _worker is not None:
        _worker.kill()
        _worker.wait()
        for pipe in (_worker.stdin, _worker.stdout):
            try:
                if pipe:
                    pipe.close()
            except OSError:  # what it had not read
                pass
        _worker = None


def _forget() -> None:
    """In a forked process: the worker belongs to the other one."""
    global _worker, _lock
    _worker, _lock = None, threading.Lock()


atexit.register(_stop)
os.register_at_fork(after_in_child=_forget)


def _serve() -> None:
    """The worker: a line with one or two expressions comes, a line with the answer of `_asked` goes."""
    import resource  # only Unix has it, as it has the rest of what we need

    import sympy
    from math_verify import parse, verify
    from math_verify.parser import LatexExtractionConfig

    logging.disable()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    except (ValueError, OSError):  # macOS has no such limit; a lower one that is set already stays
        pass
    rules = replace(LatexExtractionConfig().normalization_config, units=False)  # letters at the end are no units
    configuration = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=rules)]

    @lru_cache(maxsize=4096)
    def parsed(text: str) -> Any:
        found = parse(f"\\boxed{{{text}}}", configuration, parsing_timeout=None)
        return [imaginary(each) if isinstance(each, sympy.Basic) else each for each in found]

    def imaginary(found: sympy.Basic) -> sympy.Basic:
        """math-verify reads i as one of several letters, by what stands beside it."""
        return found.xreplace({letter: sympy.I for letter in found.free_symbols if str(letter) == "i"})

    def equal(first: str, second: str) -> bool:
        try:
            one, other = parsed(first), parsed(second)
            return verify(one, other, timeout_seconds=None) or verify(other, one, timeout_seconds=None)
        except Exception:  # whatever a parser and an algebra system may raise: then they are not known to be equal
            return False

    def value(text: str) -> float | None:
        try:
            (found,) = (each for each in parsed(text) if not isinstance(each, str))
            number = total(found)
        except Exception:  # as above
            return None
        return number if math.isfinite(number) else None

    def total(found: Any) -> float:
        if isinstance(found, sympy.Expr):
            # Between 1/2 and 3/2, where roots and logarithms are real.
            letters = {letter: 0.5 + crc32(str(letter).encode()) / 2**32 for letter in found.free_symbols}
            number = complex(found.subs(letters).evalf())
            return number.real + math.pi * number.imag
        ends = (found.start, found.end) if isinstance(found, sympy.Interval) else found  # else a set, tuple or matrix
        totals = [total(each) for each in ends]  # their number says nothing: as a set, 5 and 5 are one
        return 0.7 * max(totals) + 0.3 * min(totals)

    equal(r"\frac{1}{2}x", r"\frac{x}{2}")  # the first question is the slowest
    print("ready", flush=True)
    for line in sys.stdin:
        _limit_seconds(resource)
        texts = json.loads(line)
        print(json.dumps(bool(equal(*texts)) if len(texts) == 2 else value(*texts)), flush=True)


def _limit_seconds(resource: Any) -> None:
    """The system ends a question that outlives the process which asked it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + 2 * SECONDS) + 1
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    except (ValueError, OSError):  # beyond a limit that is set already
        pass


if __name__ == "__main__":
    _serve()
