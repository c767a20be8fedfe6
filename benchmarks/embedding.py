"""Embedding pairs with `armo-rm/extract_embeddings.py` against plain Transformers on the same texts and decoder.

    python benchmarks/embedding.py                                     # prompts of 400 tokens, two answers of 50 each
    python benchmarks/embedding.py --pairs_per_prompt 2                # four answers, as UltraFeedback's ratings have
    python benchmarks/embedding.py --data_set_name rows.jsonl.gz       # RewardBench's columns

Three sides take turns in one process, and must find the same hidden states: ours (each prompt once, longest first);
padded batches of `--batch_size` conversations in the order of the data; and one conversation at a time, as the original
does it. Ours gets a token budget that makes about as many forward passes as the batched baseline. The bound is that
baseline's tokens, padding included, over ours.
"""

import argparse
import json

import torch
from load_recipe import load_recipe
from machine import write_record
from operations import num_operations, packed_work, padded_work
from profiles import PROFILES, rows_asked_for
from sides import compare_sides
from transformers import AutoModel

from useful_code.armorm import gating_tokens
from useful_code.eval_reward_bench_bt import render_row
from useful_code.render import ensure_pad_token, read_template
from useful_code.reward_model import best_device, load_tokenizer, weights_type
from useful_code.run_info import git_commit
from useful_code.shared_prefix import pad
from useful_code.user_errors import UserError, exit_cleanly

extract = load_recipe("armo-rm/extract_embeddings.py")
COMPARED = 8  # channels of every embedding


def compare(name: str, model_path: str, rows: list[dict], batch_size: int, turns: int, dtype: torch.dtype) -> dict:
    """Seconds of the three sides over the same rows, their ratios turn by turn, and the bound."""
    template = read_template(load_tokenizer(model_path))
    pad_token_id, tokens = ensure_pad_token(template), gating_tokens(template)
    groups = [render_row(template, row, number) for number, row in enumerate(rows, start=1)]
    pairs = [{"ids": group, "prompt": row["prompt"]} for group, row in zip(groups, rows, strict=True)]
    of_prompts: dict[str, list] = {}
    for pair in pairs:
        of_prompts.setdefault(pair["prompt"], []).extend(pair["ids"])
    texts = [ids for group in groups for ids in group]
    batches = [texts[i : i + batch_size] for i in range(0, len(texts), batch_size)]
    work = {
        "ours": packed_work(list(of_prompts.values())),
        "padded": padded_work([[len(ids) for ids in batch] for batch in batches]),
        "one_by_one": padded_work([[len(ids)] for ids in texts]),
    }
    device = best_device()
    decoder = extract.load_decoder(model_path, trust_remote_code=False, dtype=dtype).to(device).eval()
    plain = AutoModel.from_pretrained(model_path, dtype=dtype).to(device).eval()

    def embed_ours() -> list[float]:
        budget = -(-work["ours"][0] // len(batches))
        return extract.embed(decoder, tokens, pad_token_id, pairs, budget)[0][..., :COMPARED].flatten().tolist()

    @torch.inference_mode()
    def embed_plainly(parts: list[list]) -> list[float]:
        found = []
        for part in parts:
            batch = {key: value.to(device) for key, value in pad([part], pad_token_id, side="left").items()}
            found += plain(**batch, use_cache=False).last_hidden_state[:, -1, :COMPARED].flatten().tolist()
        return found

    calls = {
        "ours": embed_ours,
        "padded": lambda: embed_plainly(batches),
        "one_by_one": lambda: embed_plainly([[ids] for ids in texts]),
    }
    result = compare_sides(calls, work, lambda one: num_operations(plain, one), len(rows), turns, dtype)
    return {"data": name, "prompts": len(of_prompts), "batch_size": batch_size, **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2-135m", help="Directory of a decoder.")
    parser.add_argument("--data_set_name", default=None, help="File with the columns of RewardBench, else a profile.")
    parser.add_argument("--profile", choices=PROFILES, default="400+50", help="Mean tokens of prompt and response.")
    parser.add_argument("--num_pairs", type=int, default=32, help="Pairs to embed.")
    parser.add_argument("--pairs_per_prompt", type=int, default=1, help="Of a profile: 2 means four answers.")
    parser.add_argument("--batch_size", type=int, default=8, help="Conversations per padded batch; even.")
    parser.add_argument("--turns", type=int, default=3, help="Turns per side, at least 3.")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="Of the weights.")
    parser.add_argument("--output", default=None, help="JSON file to write.")
    arguments = parser.parse_args()
    if arguments.pairs_per_prompt < 1:
        raise UserError("--pairs_per_prompt must be at least 1")
    name, rows = rows_asked_for(arguments, arguments.pairs_per_prompt)
    commit = git_commit()
    dtype = weights_type(arguments.dtype, best_device())
    result = compare(name, arguments.model, rows, arguments.batch_size, arguments.turns, dtype)
    print(json.dumps(result, indent=1))
    if arguments.output:
        write_record(arguments.output, commit, [result])


if __name__ == "__main__":
    exit_cleanly(main)
