"""Score conversations with a reward model: prompts computed once, batches filled by tokens, longest first.

    python useful_code/score.py --reward_name_or_path models/my-rm --input rows.jsonl --output scores.jsonl
    accelerate launch --num_processes 8 useful_code/score.py ...      # the same on eight GPUs

Input rows: `{"prompt": text or messages, "responses": [text, ...]}`, or `{"chosen": messages, "rejected": messages}`.
Output: the same rows in the same order with `scores`, one number per response (a pair: chosen, rejected). Scores are
raw logits: only differences for one prompt mean anything. An interrupted run goes on where it stopped.
"""

import argparse
import glob
import hashlib
import json
import logging
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from tqdm import tqdm

from useful_code.atomic_write import write_atomically
from useful_code.chat_pairs import check_conversation, check_pair
from useful_code.prefix_attention import positions_depend_on_batch
from useful_code.processes import start_processes
from useful_code.read_rows import load_checked, report_counts
from useful_code.reasons import RowRefused
from useful_code.render import Template, ensure_pad_token, read_template, render_within
from useful_code.reward_model import load_reward_model, load_tokenizer
from useful_code.shared_prefix import default_kernel, num_packed_tokens, pack, pad
from useful_code.token_batches import fill_in_order
from useful_code.user_errors import UserError, exit_cleanly

logger = logging.getLogger(__name__)

Group = Sequence[Sequence[int]]  # token ids of a prompt with each of its responses


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that scores with a reward model."""
    parser.add_argument("--reward_name_or_path", required=True, help="Directory or hub name of the reward model.")
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="Type of the weights; auto is bfloat16 on a GPU, float32 on a CPU. The head is float32 in any case.",
    )
    parser.add_argument(
        "--max_tokens_per_batch",
        type=int,
        default=8192,
        help="Tokens of one forward pass, shared prompts counted once.",
    )
    parser.add_argument("--chat_template_path", default=None, help="Jinja file to use instead of the model's template.")
    parser.add_argument("--trust_remote_code", action="store_true", help="Run code that comes with the model.")


def load_scorer(arguments: argparse.Namespace, state: PartialState):
    """Model on this process's device in evaluation mode, template of its tokenizer, and the id to pad with."""
    if arguments.max_tokens_per_batch < 1:
        raise UserError(f"--max_tokens_per_batch is {arguments.max_tokens_per_batch}; it must be at least 1")
    name = arguments.reward_name_or_path
    tokenizer = load_tokenizer(name, arguments.chat_template_path, arguments.trust_remote_code)
    template = read_template(tokenizer)
    on_gpu = state.device.type == "cuda"
    dtype = {"auto": torch.bfloat16 if on_gpu else torch.float32}.get(arguments.dtype) or getattr(
        torch, arguments.dtype
    )
    model = load_reward_model(name, arguments.trust_remote_code, dtype=dtype)
    if model.missing_head:
        raise UserError(f"{name!r} has no reward head (a causal language model?); train one first")
    # Architectures with a forward of their own look for the end of a text by this id.
    model.config.pad_token_id = ensure_pad_token(template)
    return model.to(state.device).eval(), template, model.config.pad_token_id


def fill_batches(groups: Sequence[Group], max_tokens: int) -> list[list[int]]:
    """Indices of groups per batch: longest first, each batch within `max_tokens` unless one group alone is longer.

    >>> fill_batches([[[1, 2]], [[1, 2, 3, 4]], [[1]]], max_tokens=4)
    [[1], [0, 2]]
    """
    lengths = [num_packed_tokens(group) for group in groups]
    return fill_in_order(sorted(range(len(groups)), key=lambda i: (-lengths[i], i)), lengths, max_tokens)


def fill_padded_batches(groups: Sequence[Group], max_tokens: int) -> list[list[int]]:
    """The same for models that need padding: every sequence of a batch counts with the length of the longest.

    >>> fill_padded_batches([[[1, 2]], [[1, 2, 3, 4]], [[1]]], max_tokens=4)
    [[1], [0, 2]]
    """
    batches: list[list[int]] = []
    width = room = 0
    longest = [max(map(len, group)) for group in groups]
    for index in sorted(range(len(groups)), key=lambda i: (-longest[i], i)):
        if not batches or len(groups[index]) * width > room:
            batches.append([])
            width, room = longest[index], max_tokens
        batches[-1].append(index)
        room -= len(groups[index]) * width
    return batches


@torch.inference_mode()
def score_batch(model, groups: Sequence[Group], pad_token_id: int) -> list[list[float]]:
    """Rewards of one batch, a list per group. Equal sequences of a group are computed once and get equal rewards."""
    device = next(model.parameters()).device
    distinct = [list(dict.fromkeys(map(tuple, group))) for group in groups]
    if model.shares_prefix:
        batches = [pack(distinct, default_kernel())]
    elif positions_depend_on_batch(model):
        batches = [pad([[sequence]], pad_token_id) for group in distinct for sequence in group]
    else:
        batches = [pad(distinct, pad_token_id)]
    found: list[float] = []
    for batch in batches:
        batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
        found += model(**batch).logits[:, 0].float().tolist()
    rewards = iter(found)
    reward_of = [{sequence: next(rewards) for sequence in sequences} for sequences in distinct]
    return [[known[tuple(sequence)] for sequence in group] for group, known in zip(groups, reward_of, strict=True)]


def score_groups(
    model, groups: Sequence[Group], pad_token_id: int, max_tokens_per_batch: int, progress: bool = False
) -> Iterator[tuple[list[int], list[list[float]]]]:
    """Yield (indices, rewards) batch by batch; every group comes once. Progress is counted in tokens."""
    total = sum(map(num_packed_tokens, groups))
    with tqdm(total=total, unit="token", unit_scale=True, desc="scoring", disable=not progress) as bar:
        fill = fill_batches if model.shares_prefix else fill_padded_batches
        for indices in fill(groups, max_tokens_per_batch):
            chosen = [groups[i] for i in indices]
            yield indices, score_batch(model, chosen, pad_token_id)
            bar.update(sum(map(num_packed_tokens, chosen)))


def score_resumably(
    model, groups: Sequence[Group], pad_token_id: int, max_tokens_per_batch: int, parts: Path, fingerprint: str
) -> list[list[float]]:
    """Rewards of all groups, in order, on every process; shared among the processes of `accelerate launch`.

    Finished batches are appended to `<parts>.part-*.jsonl`; a later call with the same `fingerprint` (of the model)
    starts from them, with any number of processes. Call `remove_parts(parts)` when the result is stored. Raises
    UserError for a reward that is not finite; it is not kept.
    """
    state = start_processes()
    # From the main process: on several machines, copies of one model have different dates.
    done, fingerprint = broadcast_object_list([_read_parts(parts) if state.is_main_process else None, fingerprint])
    keys = [_key(fingerprint, group) for group in groups]
    todo = sorted({key: i for i, key in enumerate(keys) if key not in done}.values())
    num_done = sum(key in done for key in keys)
    if num_done and state.is_main_process:
        print(f"{num_done:,} of {len(groups):,} rows are scored already ({parts.name}.part-*)")
    mine = todo[state.process_index :: state.num_processes]
    scored: dict[str, list[float]] = {}
    number = len(_part_files(parts, str(state.process_index)))
    parts.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{parts}.part-{state.process_index}-{number}.jsonl", "w", encoding="utf-8") as file:
        batches = score_groups(
            model, [groups[i] for i in mine], pad_token_id, max_tokens_per_batch, state.is_main_process
        )
        for indices, rewards in batches:
            for i, row in zip(indices, rewards, strict=True):
                if not all(map(math.isfinite, row)):
                    raise UserError(
                        f"row {mine[i] + 1:,} of the usable rows gets the scores {row}, which are not all finite; try "
                        "--dtype float32, or look at the checkpoint"
                    )
                scored[keys[mine[i]]] = row
                file.write(json.dumps([keys[mine[i]], row]) + "\n")
            file.flush()
    for pairs in gather_object([list(scored.items())]):
        done.update(pairs)
    return [done[key] for key in keys]


def remove_parts(parts: Path) -> None:
    """Delete what `score_resumably` kept for a restart."""
    for path in _part_files(parts):
        path.unlink()


def model_fingerprint(name: str, model) -> str:
    """Changes when other weights would be used: files of a directory, or the commit of a hub model; and the dtype."""
    directory = Path(name)
    if directory.is_dir():
        files = sorted(p for p in directory.iterdir() if p.is_file())
        facts: Any = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    else:
        facts = getattr(model.config, "_commit_hash", None)
    return hashlib.blake2b(repr((name, facts, str(model.dtype))).encode(), digest_size=16).hexdigest()


def render_row(row: Any, template: Template, max_length: int | None) -> list[array]:
    """Token ids of each response with its prompt. Raises RowRefused for what cannot be scored."""
    if isinstance(row, dict) and "chosen" in row and "responses" not in row:
        pair = check_pair(row)
        conversations = [pair["chosen"], pair["rejected"]]
    else:
        if not isinstance(row, dict) or "prompt" not in row or "responses" not in row:
            raise RowRefused("missing_key", "a row needs `prompt` and `responses`, or `chosen` and `rejected`")
        responses = row["responses"]
        if not isinstance(responses, list) or not responses or not all(isinstance(text, str) for text in responses):
            raise RowRefused("wrong_type", "`responses` must be a list of one or more texts")
        prompt = row["prompt"]
        history = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        history = check_conversation(history, "prompt", ends_with="user")
        # An empty response is a bad answer, not a bad row: it is scored like any other.
        conversations = [[*history, {"role": "assistant", "content": text}] for text in responses]
    return [render_within(template, conversation, max_length) for conversation in conversations]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--input", required=True, help="Rows to score: file, folder or hub data set.")
    parser.add_argument("--output", required=True, help="JSON lines file to write.")
    parser.add_argument("--split", default=None, help="Split of a hub data set.")
    parser.add_argument("--max_length", type=int, default=None, help="Refuse rows with a longer side, in tokens.")
    arguments = parser.parse_args()
    state = start_processes()
    output = Path(arguments.output)
    if output.is_dir():
        raise UserError(f"--output {output} is a directory; give a file, for example {output / 'scores.jsonl'}")
    if output.resolve() == Path(arguments.input).resolve():
        raise UserError(f"--output {output} would overwrite --input; give another file")
    refused_path = output.with_name(f"{output.stem}_refused_rows.jsonl") if state.is_main_process else None
    model, template, pad_token_id = load_scorer(arguments, state)
    groups: list[list[array]] = []

    def check(row: Any) -> dict[str, Any]:
        groups.append(render_row(row, template, arguments.max_length))
        return row

    rows, counts = load_checked(arguments.input, check, refused_path, arguments.split)
    fingerprint = model_fingerprint(arguments.reward_name_or_path, model)
    scores = score_resumably(model, groups, pad_token_id, arguments.max_tokens_per_batch, output, fingerprint)
    if state.is_main_process:
        lines = [
            json.dumps(row | {"scores": row_scores}, ensure_ascii=False, default=str) + "\n"  # str: dates of parquet
            for row, row_scores in zip(rows, scores, strict=True)
        ]
        # A lone surrogate in another column becomes \udxxx, which is its JSON escape.
        write_atomically(output, "".join(lines).encode("utf-8", "backslashreplace"))
        remove_parts(output)
        print(report_counts(counts))
        print(f"{len(rows):,} rows scored; written to {output}")
    state.wait_for_everyone()
    state.destroy_process_group()


def _key(fingerprint: str, group: Group) -> str:
    digest = hashlib.blake2b(fingerprint.encode(), digest_size=16)
    for sequence in group:
        digest.update(array("i", sequence).tobytes() + b"|")
    return digest.hexdigest()


def _part_files(parts: Path, process: str = "*") -> list[Path]:
    return sorted(parts.parent.glob(f"{glob.escape(parts.name)}.part-{process}-*.jsonl"))


def _read_parts(parts: Path) -> dict[str, list[float]]:
    done = {}
    for path in _part_files(parts):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                key, rewards = json.loads(line)
            except (ValueError, TypeError):
                continue  # the line that was being written when the run was stopped
            done[key] = rewards
    return done


if __name__ == "__main__":
    exit_cleanly(main)
