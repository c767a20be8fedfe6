"""How many tokens the rows have for one model: what a limit such as --max_length would keep."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from useful_code.inspecting.findings import length_table, rows_of, share_with_interval
from useful_code.inspecting.seen import Shown
from useful_code.reasons import RowRefused
from useful_code.report import Table

LIMITS = (512, 1024, 2048, 4096, 8192)


def token_tables(rows: Sequence[Shown], kind: str, tokenizer_path: str) -> list[Table]:
    """Tokens of a sample of rows, rendered with the chat template as the recipes render them.

    The longer side of a pair counts. Raises `UserError` if there is no such tokenizer, or it has no chat template.
    """
    from useful_code.render import read_template, render
    from useful_code.reward_model import load_tokenizer

    template = read_template(load_tokenizer(tokenizer_path))
    lengths, refused = [], 0
    for shown in rows:
        try:
            lengths.append(max(len(render(template, messages)) for messages in conversations(shown.row, kind)))
        except RowRefused:
            refused += 1
    tokens = np.array(lengths, dtype=float)
    within = [
        (f"{limit:,} tokens", share_with_interval(int((tokens <= limit).sum()), len(rows)))
        for limit in LIMITS
        if not len(tokens) or limit <= 2 * tokens.max() or limit == LIMITS[0]
    ]
    if refused:
        within.append(("refused by the chat template", share_with_interval(refused, len(rows))))
    caption = f"Lengths in tokens of {tokenizer_path}, {rows_of(len(rows))} drawn at random"
    return [
        length_table([("longer side of the pair" if kind == "pairs" else "row", tokens)], caption),
        Table("Rows within a limit (95 % interval)", ("limit", "share of the rows"), within),
    ]


def conversations(row: dict[str, Any], kind: str) -> list[list[dict[str, str]]]:
    """The conversations of a checked row that a model reads; the steps of a solution as one answer."""
    if kind == "pairs":
        return [row["chosen"], row["rejected"]]
    if kind == "ratings":
        return [row["messages"]]
    solution = "\n".join(row["completions"])
    return [[{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": solution}]]
