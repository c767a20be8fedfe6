"""Scoring that an interruption does not undo, shared among the processes of `accelerate launch`.

Finished batches are appended to part files beside the output, `<output>.part-<process>-<number>.jsonl`, each group
under a key of the model and its token ids. A later run takes from them what it needs, with any number of processes.
"""

import glob
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import TypeVar

from accelerate.utils import broadcast_object_list, gather_object

from useful_code.processes import start_processes
from useful_code.scoring import Group, Numbers, Scorer, score_groups
from useful_code.user_errors import UserError

Row = TypeVar("Row")


def score_resumably(scorer: Scorer, groups: Sequence[Group], parts: Path) -> list[Numbers]:
    """Numbers (S, K) of all groups, in order, on every process.

    Call `remove_parts(parts)` when the result is stored. Raises UserError for a number that is not finite; it is not
    kept.
    """
    state = start_processes()
    # From the main process: on several machines, copies of one model have different dates.
    done, fingerprint = broadcast_object_list(
        [_read_parts(parts) if state.is_main_process else None, scorer.fingerprint]
    )
    keys = [_key(scorer, fingerprint, group) for group in groups]
    todo = sorted({key: i for i, key in enumerate(keys) if key not in done}.values())
    num_done = sum(key in done for key in keys)
    if num_done and state.is_main_process:
        print(f"{num_done:,} of {len(groups):,} rows are scored already ({parts.name}.part-*)")
    mine = todo[state.process_index :: state.num_processes]
    scored: dict[str, Numbers] = {}
    number = len(_part_files(parts, str(state.process_index)))
    parts.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{parts}.part-{state.process_index}-{number}.jsonl", "w", encoding="utf-8") as file:
        for indices, batch in score_groups(scorer, [groups[i] for i in mine], progress=state.is_main_process):
            for i, numbers in zip(indices, batch, strict=True):
                if not all(math.isfinite(number) for row in numbers for number in row):
                    text = scorer.template.tokenizer.decode(groups[mine[i]][0])
                    raise UserError(
                        f"{text[:200]!a} ... gets the scores {numbers}, which are not all finite; try --dtype float32, "
                        "or look at the checkpoint"
                    )
                scored[keys[mine[i]]] = numbers
                file.write(json.dumps([keys[mine[i]], numbers]) + "\n")
            file.flush()
    for pairs in gather_object([list(scored.items())]):
        done.update(pairs)
    return [done[key] for key in keys]


def score_in_chunks(
    scorer: Scorer, rows: Iterable[tuple[Row, Group]], parts: Path, rows_per_chunk: int = 20_000
) -> Iterator[tuple[list[Row], list[Numbers]]]:
    """Rows with the numbers of their groups, chunk by chunk, on every process; the token ids of one chunk are held.

    Like `score_resumably`, with part files per chunk; call `remove_chunks(parts)` when the result is stored.
    """
    remaining = iter(rows)
    for number in count():
        chunk = list(islice(remaining, rows_per_chunk))
        if not chunk:
            return
        numbers = score_resumably(scorer, [group for _, group in chunk], chunk_parts(parts, number))
        yield [row for row, _ in chunk], numbers


def remove_parts(parts: Path) -> None:
    """Delete what `score_resumably` kept for a restart."""
    for path in _part_files(parts):
        path.unlink()


def remove_chunks(parts: Path) -> None:
    """Delete what was kept for a restart under `chunk_parts`."""
    for number in count():
        if not _part_files(chunk_parts(parts, number)):
            return
        remove_parts(chunk_parts(parts, number))


def chunk_parts(parts: Path, number: int) -> Path:
    """The `parts` of one chunk of a run."""
    return parts.with_name(f"{parts.name}.chunk-{number}")


def _key(scorer: Scorer, fingerprint: str, group: Group) -> str:
    digest = hashlib.blake2b(fingerprint.encode(), digest_size=16)
    for sequence in group:
        digest.update(scorer.identity(sequence) + b"|")
    return digest.hexdigest()


def _part_files(parts: Path, process: str = "*") -> list[Path]:
    return sorted(parts.parent.glob(f"{glob.escape(parts.name)}.part-{process}-*.jsonl"))


def _read_parts(parts: Path) -> dict[str, Numbers]:
    done = {}
    for path in _part_files(parts):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                key, numbers = json.loads(line)
            except (ValueError, TypeError):
                continue  # the line that was being written when the run was stopped
            done[key] = numbers
    return done
