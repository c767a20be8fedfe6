"""The output folder of a conversion, and the work folder in it that lets an interrupted one go on."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from useful_code.atomic_write import write_atomically
from useful_code.converting.inputs import sha256_of
from useful_code.user_errors import UserError

WORK_FOLDER = ".unfinished"  # hidden: no reader takes it for data


def output_folder(output: str | os.PathLike) -> Path:
    """The output as a folder, made if it is not there. Raises `UserError`."""
    path = Path(output)
    if path.suffix in (".jsonl", ".parquet", ".json", ".csv", ".gz") or path.is_file():
        raise UserError(f"{output}: the output is a folder; name one, without a suffix (--format chooses the files)")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be made ({error.strerror})") from error
    return path


def fingerprint(plan: dict[str, Any]) -> str:
    """A hash of all that decides the bytes of an output: the plan, and the code of `useful_code`."""
    return hashlib.sha256(json.dumps({**plan, "code": _hash_of_code()}, default=str).encode()).hexdigest()


def finished_card(output: Path, made_from: str) -> dict[str, Any] | None:
    """The card of `output` if it was made from this fingerprint and all its files are as they were."""
    try:
        card = json.loads((output / "card.json").read_text(encoding="utf-8"))
        files = [*card["files"], card["refused_rows"]]
        whole = all(sha256_of(output / entry["file"]) == entry["sha256"] for entry in files)
        if card["made_from"] != made_from or not whole or not (output / "DATA_CARD.md").is_file():
            return None
        discard_work(output / WORK_FOLDER)  # a kill may have come between the card and this
        return card
    except (OSError, ValueError, KeyError, TypeError):
        return None


def start_work(output: Path, made_from: str) -> Path:
    """The work folder: the one that an interrupted run with the same fingerprint left, or a new one."""
    work = output / WORK_FOLDER
    try:
        found = (work / "made_from").read_text(encoding="utf-8")
    except FileNotFoundError:
        found = None
    if found == made_from:
        finished = len(list(work.glob("part-*.json")))
        print(f"{output}: going on after {finished} finished part{'s' * (finished != 1)}", file=sys.stderr)
    else:
        discard_work(work)
        write_atomically(work / "made_from", made_from)
    return work


def discard_work(work: Path) -> None:
    """Remove the work folder; first what makes it valid, so that a kill in between leaves nothing to be trusted."""
    (work / "made_from").unlink(missing_ok=True)
    if work.exists():
        shutil.rmtree(work)


@contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Raise `UserError` if another process works on this output. The lock ends with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder = os.open(output, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{output}: another run is writing here; wait for it, or choose another output") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(folder)


@contextmanager
def interruptions_told(output: str) -> Iterator[None]:
    """Around a whole command: Ctrl-C says how to go on, and an error of the file system is one line."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"{output}: the same command goes on where this one stopped", file=sys.stderr)
        raise
    except OSError as error:
        where = error.filename or output
        raise UserError(f"{where}: cannot be read or written ({error.strerror or error})") from error


def _hash_of_code() -> str:
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
