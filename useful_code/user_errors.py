"""One clear line instead of a traceback when the user's input cannot be used."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something only the user can mend. The text says what is wrong, where, and what to do about it."""


def first_line(error: BaseException) -> str:
    """The first line of what an error of a library says, for a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def exit_cleanly(main: Callable[[], None]) -> None:
    """Run `main`; a `UserError` becomes one line on standard error and exit status 2.

    Ctrl-C ends with status 130 and without a traceback, as shells expect.

    >>> def main():
    ...     raise UserError("pairs.jsonl: no such file. Give an existing path to --dataset")
    >>> exit_cleanly(main)
    Traceback (most recent call last):
    SystemExit: 2
    """
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
