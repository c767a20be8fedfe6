r"""Embeddings of rated answers or of pairs: the frozen decoder runs once, everything later takes seconds.

    python armo-rm/extract_embeddings.py --model_name_or_path models/smollm2-135m \
        --input ratings/helpsteer2 --output embeddings/helpsteer2
    accelerate launch --num_processes 8 armo-rm/extract_embeddings.py ...      # the same on eight GPUs
    ... --deepspeed armo-rm/zero3.json      # and each keeps an eighth of the decoder, which need not fit one

Input: rated rows (useful_code/rated_rows.py) or chosen/rejected pairs, one kind. Output: a folder as embedding_files.py
describes it, and refused_rows.jsonl. A prompt is computed once for all its answers in a part. An interrupted run goes
on with the part where it stopped, with any number of processes; parts of another model or of changed rows are made
anew.

Of every answer the last hidden state of its last token is kept; of a pair also that of the token which closes the
prompt, where the gate will read (useful_code/armorm.py).

Shapes: N rows of a part, S sequences of a prompt, D hidden size.
"""

import argparse
import json
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import broadcast_object_list, gather_object
from embedding_files import CARD, is_written, part_key, part_path, write_rows, write_tensors
from option_checks import check_options
from safetensors import SafetensorError
from sharded_decoder import ZeroSharding
from tqdm import tqdm
from transformers import AutoModel

from useful_code.armorm import closing_places, gating_tokens, hidden_at_ends_and_gates
from useful_code.atomic_write import write_atomically
from useful_code.chat_pairs import check_pair, is_tie, preferred_first, prompt_key
from useful_code.model_files import model_fingerprint
from useful_code.prefix_attention import share_prefix_where_possible
from useful_code.processes import leave_together, start_processes
from useful_code.rated_rows import check_rated
from useful_code.read_rows import RowCounts, no_usable_row, read_unparsed, refused_record, report_counts
from useful_code.reasons import RowRefused
from useful_code.render import Template, ensure_pad_token, read_template, render, render_within
from useful_code.reward_model import load_tokenizer, weights_type, why_not_loaded
from useful_code.row_readers import parsed
from useful_code.scoring import fill_batches, fill_padded_batches, model_inputs
from useful_code.user_errors import UserError, exit_cleanly

PROBED = 64  # channels of the probe that are kept
KEPT_COLUMNS = ("ratings", "scales", "label", "margin", "source", "subset", "source_id")


class PartResult(NamedTuple):
    number: int
    kept: int
    is_new: bool  # computed in this run
    refused: list[dict[str, Any]]


def render_row(row: Any, template: Template, tokens: list[int], max_length: int | None, kind: str) -> dict[str, Any]:
    """The row as it is kept, with `ids` of its answers. Raises RowRefused for what cannot be embedded."""
    if kind == "rated":
        checked = check_rated(row)
        chats = [checked["messages"]]
    else:
        checked = preferred_first(check_pair(row))
        if is_tie(checked):
            raise RowRefused("tie", "a gate is trained on pairs with a winner")
        chats = [checked["chosen"], checked["rejected"]]
    ids = [render_within(template, chat, max_length) for chat in chats]
    closings = closing_places(template, tokens, chats, ids)
    return {
        "ids": ids,
        "prompt": prompt_key(chats[0][:-1]),
        "num_tokens": [
            len(one) - start - len(tokens) for one, start in zip(ids, closings, strict=True)
        ],  # of the answer
        **{name: checked[name] for name in KEPT_COLUMNS if checked.get(name) is not None},
    }


def render_part(
    part: Sequence[Any], template: Template, tokens: list[int], max_length: int | None, kind: str
) -> tuple[list[dict], list[dict]]:
    """Rows that can be embedded, each with its `place` in the source, and records of the refused ones."""
    rows, refused_records = [], []
    for read_row in map(parsed, part):
        try:
            if isinstance(read_row.row, RowRefused):
                raise read_row.row
            row = render_row(read_row.row, template, tokens, max_length, kind)
            rows.append({"place": f"{read_row.file}:{read_row.number}", **row})
        except RowRefused as refused:
            refused_records.append(refused_record(read_row, refused))
    return rows, refused_records


@torch.inference_mode()
def embed(
    model: Any,
    tokens: Sequence[int],  # that close a prompt
    pad_token_id: int,
    rows: Sequence[dict],  # N, each with `ids` of as many answers
    max_tokens_per_batch: int,
    progress: Callable[[int], Any] = lambda num_rows: None,  # is told of rows whenever a batch is done
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (N, answers, D) of the answers and (N, D) of the prompts, on the CPU, in the model's type."""
    by_prompt: dict[str, list[array]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt"], []).extend(row["ids"])
    num_rows = Counter(row["prompt"] for row in rows)
    prompts, groups = list(by_prompt), list(by_prompt.values())
    of_sequence: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}
    fill = fill_batches if model.shares_prefix else fill_padded_batches
    for indices in fill(groups, max_tokens_per_batch):
        chosen = [groups[index] for index in indices]
        for batch, members in model_inputs(model, pad_token_id, chosen, max_tokens_per_batch):
            ends, gates = (hidden.cpu() for hidden in hidden_at_ends_and_gates(model, tokens, **batch))  # (S, D) each
            sequences = [sequence for _, group in members for sequence in group]
            of_sequence.update(zip(sequences, zip(ends, gates, strict=True), strict=True))
        progress(sum(num_rows[prompts[index]] for index in indices))
    found = [[of_sequence[tuple(ids)] for ids in row["ids"]] for row in rows]
    responses = torch.stack([torch.stack([end for end, _ in answers]) for answers in found])
    return responses, torch.stack([answers[0][1] for answers in found])


def load_decoder(path: str, trust_remote_code: bool, **settings: Any) -> Any:
    """The body of any decoder: of a causal language model, or of a reward model, whose head is left behind."""
    try:
        model, loading = AutoModel.from_pretrained(
            path, trust_remote_code=trust_remote_code, output_loading_info=True, **settings
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise UserError(f"no decoder can be loaded from {path!r}: {why_not_loaded(path, error)}") from error
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f"{path!r} is no whole decoder: it has no {', '.join(missing[:3])}")
    share_prefix_where_possible(model)
    return model


def probe_row(template: Template) -> dict[str, Any]:
    """A row whose embedding tells one decoder from another."""
    question = {"role": "user", "content": "Shall we go out?"}
    return {"ids": [array("i", render(template, [question, {"role": "assistant", "content": "Yes."}]))], "prompt": ""}


def parts_of(arguments: argparse.Namespace) -> Iterator[list]:
    """Unparsed rows, so many at a time."""
    rows = read_unparsed(arguments.input, arguments.split)
    while part := list(islice(rows, arguments.rows_per_part)):
        yield part


def check_finite(responses: torch.Tensor, rows: Sequence[dict]) -> None:
    """Raise UserError for an embedding (N, answers, D) that is not finite: it would spoil every sum it is in."""
    broken = (~responses.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if broken:
        raise UserError(
            f"{rows[broken[0]]['place']}: the decoder gives numbers that are not finite; try --dtype float32, or look "
            "at the checkpoint"
        )


def survey(arguments: argparse.Namespace) -> tuple[list[int], str]:
    """How many rows every part has, and the kind of the first row that can be read."""
    sizes, kind = [], ""
    for part in parts_of(arguments):
        sizes.append(len(part))
        rows = [] if kind else [parsed(row).row for row in part]
        kind = kind or next(("pairs" if "chosen" in row else "rated" for row in rows if isinstance(row, dict)), "")
    if not sizes:
        raise UserError(f"{arguments.input}: holds no rows")
    return sizes, kind


def check_folder(output: Path, num_parts: int) -> None:
    """Raise UserError where the folder holds the parts of another run."""
    strange = [file for file in output.glob("part-*") if f"-of-{num_parts:05d}." not in file.name]
    if strange:
        raise UserError(
            f"{output} holds {strange[0].name}, made with another --rows_per_part or from other rows; give another "
            "--output, or remove the folder"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_name_or_path", required=True, help="Decoder to freeze, best one that was trained on preferences.")
    add("--input", required=True, help="Rated rows or pairs: file, folder or hub data set.")
    add("--split", default=None, help="Split of a hub data set.")
    add("--output", required=True, help="Folder to write.")
    add("--max_length", type=int, default=None, help="Refuse rows with a longer sequence, in tokens.")
    add("--max_tokens_per_batch", type=int, default=8192, help="Tokens of one forward pass, prompts counted once.")
    add("--rows_per_part", type=int, default=512, help="Rows of one file; what an interruption may cost a process.")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="auto: bfloat16 on a GPU.")
    add("--deepspeed", default=None, help="ZeRO-3 config: the processes share out the decoder's weights.")
    add("--chat_template_path", default=None, help="Jinja file to use instead of the model's template.")
    add("--trust_remote_code", action="store_true", help="Run code that comes with the model.")
    arguments = parser.parse_args()
    check_options(arguments)
    return arguments


def main() -> None:
    started_at = time.time()
    arguments = parse_arguments()
    state = start_processes()
    path, output = arguments.model_name_or_path, Path(arguments.output)
    template = read_template(load_tokenizer(path, arguments.chat_template_path, arguments.trust_remote_code))
    tokens, pad_token_id = gating_tokens(template), ensure_pad_token(template)
    dtype = weights_type(arguments.dtype, state.device)
    sharding = ZeroSharding(arguments.deepspeed, dtype) if arguments.deepspeed else None
    model = load_decoder(path, arguments.trust_remote_code, dtype=dtype)
    model = sharding.take(model) if sharding else model.to(state.device).eval()
    fingerprint = broadcast_object_list([model_fingerprint(path, model)])[0]  # the main process's: dates may differ
    probe = embed(model, tokens, pad_token_id, [probe_row(template)], arguments.max_tokens_per_batch)
    sizes, kind = survey(arguments)
    check_folder(output, len(sizes))  # in every process, for none may write into a folder of another run
    if state.is_main_process:
        (output / CARD).unlink(missing_ok=True)  # what it says no longer counts
    state.wait_for_everyone()

    results = []
    bar = tqdm(total=sum(sizes), unit="row", desc="embedding", disable=not state.is_main_process)
    for number, part in enumerate(parts_of(arguments)):
        if number % state.num_processes == state.process_index:
            rows, refused = render_part(part, template, tokens, arguments.max_length, kind)
            file, key = part_path(output, number, len(sizes)), part_key(fingerprint, rows)
            is_new = not is_written(file, key)
            write_rows(file, ({name: row[name] for name in row if name != "ids"} for row in rows))
            if is_new:
                responses = torch.empty(0, 2, model.config.hidden_size, dtype=dtype)
                prompts = responses[:, 0]
                if rows:
                    budget = arguments.max_tokens_per_batch
                    responses, prompts = embed(model, tokens, pad_token_id, rows, budget, bar.update)
                    check_finite(responses, rows)
                tensors = {"response": responses, "prompt": prompts}
                if kind == "rated":
                    tensors = {"response": responses[:, 0]}
                write_tensors(file, key, tensors)
            results.append(PartResult(number, len(rows), is_new, refused))
            bar.update(len(part) - is_new * len(rows))  # the new ones were counted as they were embedded
        else:
            bar.update(len(part))
    bar.close()
    if sharding:
        sharding.keep_company()
    results = sorted(gather_object(results))
    if state.is_main_process:
        refused_path = output / "refused_rows.jsonl"
        refused = [record for result in results for record in result.refused]
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in refused)
        write_atomically(refused_path, "".join(lines).encode("utf-8", "backslashreplace"))
        reasons = Counter(record["reason"] for record in refused)
        kept = sum(result.kept for result in results)
        counts = RowCounts(arguments.input, sum(sizes), kept, reasons, str(refused_path))
        if not kept:
            raise UserError(no_usable_row(counts))
        card = {
            "kind": kind,
            "rows": kept,
            "parts": len(sizes),
            "hidden_size": model.config.hidden_size,
            "dtype": str(dtype).removeprefix("torch."),
            "model": {"path": path, "fingerprint": fingerprint, "chat_template": template.tokenizer.chat_template},
            "gating_tokens": tokens,
            "probe": [hidden.float().flatten()[:PROBED].tolist() for hidden in probe],
            "max_length": arguments.max_length,
            "source": arguments.input,
            "rows_read": counts.read,
            "refused": dict(reasons),
            "minutes": round((time.time() - started_at) / 60, 3),
        }
        write_atomically(output / CARD, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
        print(report_counts(counts))
        computed = sum(result.kept for result in results if result.is_new)
        rows_of_kind = "rated rows" if kind == "rated" else "pairs"
        print(f"{kept:,} {rows_of_kind} in {len(sizes)} parts, {computed:,} of them computed now: {output}")
    leave_together()


if __name__ == "__main__":
    exit_cleanly(main)
