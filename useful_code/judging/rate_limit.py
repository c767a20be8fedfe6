"""When the next request may be sent, and how long to wait after a failed one."""

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_WAIT_SECONDS = 300.0


class RateLimit:
    """Requests leave at least 60 / `requests_per_minute` seconds apart, repeated ones too, whichever thread sends them.

    A thread takes its place in time only when it can leave, so a pause, or a machine that slept, delays all of them and
    bunches none. None is no limit; `pause` holds everything back all the same. `clock` and `sleep` are for tests.
    """

    def __init__(
        self,
        requests_per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._interval = 60 / requests_per_minute if requests_per_minute else 0.0  # seconds
        self._clock = clock
        self.sleep = sleep
        self._lock = threading.Lock()
        self._next = clock()

    def wait(self) -> None:
        """Return when a request may be sent."""
        while True:
            with self._lock:
                now = self._clock()
                seconds = self._next - now
                if seconds <= 0:
                    self._next = now + self._interval
                    return
            self.sleep(seconds)

    def pause(self, seconds: float) -> None:
        """No request in the next `seconds`: the endpoint asked for a pause."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


def seconds_to_wait(attempt: int, retry_after: str | None, draw: Callable[[], float] = random.random) -> float:
    """Before the next attempt (counted from 1): what the endpoint says, else 1, 2, 4, ... seconds, half of it drawn.

    >>> seconds_to_wait(1, "7"), seconds_to_wait(3, None, draw=lambda: 0.5), seconds_to_wait(50, None, draw=lambda: 1)
    (7.0, 3.0, 60.0)
    """
    stated = _stated_seconds(retry_after)
    if stated is not None:
        return min(max(stated, 0.0), LONGEST_WAIT_SECONDS)
    longest = min(2.0 ** min(attempt - 1, 10), 60.0)
    return longest * (1 + draw()) / 2


def _stated_seconds(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
        return seconds if seconds == seconds else None  # not nan
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
