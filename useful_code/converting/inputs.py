"""The input files of a conversion: their names, hashes and numbers of rows."""

import hashlib
import os
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from useful_code.converting.checked import valid_text
from useful_code.data_set_reader import is_hub_name, is_saved_data_set
from useful_code.read_rows import list_files, read_unparsed
from useful_code.row_readers import ReadRow, UnparsedLine, open_binary
from useful_code.user_errors import UserError, first_line

CHUNK_BYTES = 1 << 20


def input_files(inputs: list[str]) -> dict[Path, str]:
    """The files that the inputs stand for, each with a short name that does not depend on this machine.

    The name is the path below the folder that holds all of them. Hub names have no files. Raises `UserError`.
    """
    files: list[Path] = []
    for given in inputs:
        path = Path(given)
        try:
            if is_saved_data_set(path):
                files += sorted(path.rglob("*.arrow"))
            elif path.exists() or not is_hub_name(given):
                files += list_files(path)
        except OSError as error:
            raise UserError(f"{error.filename or given}: cannot be read ({error.strerror or error})") from error
    if not files:
        return {}
    common = os.path.commonpath([file.absolute().parent for file in files])
    return {file: valid_text(os.path.relpath(file.absolute(), common).replace(os.sep, "/")) for file in files}


def check_apart(inputs: list[str], output: Path) -> None:
    """Raise `UserError` where one of the two lies in the other: the next run would read what this one wrote."""
    for given in inputs:
        path = Path(given)
        for file in input_files([given]):
            if output.resolve() in file.resolve().parents:
                raise UserError(f"{file}: the input lies in the output folder {output}; choose another output")
        if path.is_dir() and path.resolve() in output.resolve().parents:
            raise UserError(f"{output}: the output lies in the input folder {given}; choose another output")


def read_all(
    inputs: list[str], names: dict[Path, str], split: str | None, **load_options: Any
) -> Iterator[ReadRow | UnparsedLine]:
    """The rows of all inputs in order, located by the short names of `input_files`."""
    short = {str(file): name for file, name in names.items()}
    for row in chain.from_iterable(read_unparsed(given, split, **load_options) for given in inputs):
        yield row._replace(file=short.get(row.file) or valid_text(row.file))


def describe_inputs(inputs: list[str], names: dict[Path, str], revision: str | None) -> list[dict[str, Any]]:
    """For the card: name, size and hash of every file; hub data sets by name and revision (a commit where known)."""
    described: list[dict[str, Any]] = [
        {"file": name, "bytes": file.stat().st_size, "sha256": _sha256_of_input(file)} for file, name in names.items()
    ]
    return described + [{"hub": given, "revision": revision} for given in hub_names(inputs)]


def hub_names(inputs: list[str]) -> list[str]:
    """Those of the inputs that are data sets on the hub."""
    return [given for given in inputs if not Path(given).exists() and is_hub_name(given)]


def hub_commit(inputs: list[str], revision: str | None) -> str | None:
    """The commit that `revision` (None: the newest) of the one hub input means today; None if there is no such input.

    Reading exactly this commit makes the card true even if somebody uploads in the meantime. Several hub inputs
    share one `--revision`, so they are not resolved.
    """
    names = hub_names(inputs)
    if len(names) != 1:
        return revision if names else None
    import huggingface_hub
    import huggingface_hub.constants

    if huggingface_hub.constants.HF_HUB_OFFLINE:  # what was downloaded before can still be read
        return revision
    try:
        return huggingface_hub.HfApi().dataset_info(names[0], revision=revision).sha
    except Exception as error:  # the library and the network raise many kinds
        reason = first_line(error)
        raise UserError(f"{names[0]}: no such file or folder, and not found on the hub ({reason})") from error


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_input(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def progress_bar(files: list[Path], what: str) -> Any:
    """A tqdm bar over the rows of these files, which are counted only where somebody watches."""
    from tqdm import tqdm

    total = count_rows(files) if files and sys.stderr.isatty() else None
    return tqdm(total=total, desc=what, unit=f" {what}", disable=None)


def count_rows(files: list[Path]) -> int | None:
    """About how many rows the files hold, for the progress bar; None where only reading would tell."""
    total = 0
    for file in files:
        if file.name.endswith(".parquet"):
            import pyarrow
            import pyarrow.parquet

            try:
                total += pyarrow.parquet.ParquetFile(file).metadata.num_rows
            except (pyarrow.ArrowException, OSError):  # empty or broken: reading will say so
                continue
        elif file.name.endswith((".json", ".json.gz", ".arrow")):
            return None
        else:
            total += _count_lines(file)
    return total or None


def _count_lines(file: Path) -> int:
    lines = 0
    try:
        with open_binary(file) as handle:
            while chunk := handle.read(CHUNK_BYTES):
                lines += chunk.count(b"\n")
    except Exception:  # a damaged file: reading will say so, and where
        pass
    return lines
