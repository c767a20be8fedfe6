"""The data card: `card.json` for programs and `DATA_CARD.md`, the same for people."""

import json
from pathlib import Path
from typing import Any

from useful_code.atomic_write import write_atomically
from useful_code.reasons import REASONS

MOST_SUBSETS = 30  # on the page


def write_card(card: dict[str, Any], output: Path) -> None:
    """Write both; `card.json` last, so that a folder that has it is complete."""
    write_atomically(output / "DATA_CARD.md", as_markdown(card))
    write_atomically(output / "card.json", json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def as_markdown(card: dict[str, Any]) -> str:
    """The card as a page: what it is and how it was made, then the counts."""
    made = card["rows_kept"] + sum(card["dropped"].values())
    lines = [
        f"# {card['title']}",
        "",
        card["rule"][0].upper() + card["rule"][1:] + ".",
        "",
        *_table(
            ("", ""),
            [
                ("kind of rows", card["kind"]),
                ("origin", card["origin"]),
                ("licence", card["licence"]),
                ("raw fields", card["raw_fields"]),
                ("options", ", ".join(f"{key} {value}" for key, value in card["options"].items() if value is not None)),
                ("code", card["code_commit"] or "not under version control"),
            ],
        ),
        "",
        "## Rows",
        "",
        *_table(
            ("", "number"),
            [
                ("raw rows read", card["rows_read"]),
                ("raw rows that gave at least one row", card["rows_used"]),
                ("rows made of them", made),
                ("**rows kept**", card["rows_kept"]),
                ("different prompts", card["prompts"]),
            ],
        ),
        "",
        "What is missing, row by row, is in `refused_rows.jsonl`:",
        "",
        *_table(("reason", "number", "meaning"), _reasons(card)),
        "",
        "## What is in it",
        "",
        *_table(
            ("characters", "mean", "5 %", "median", "95 %", "longest"),
            [(name, *values.values()) for name, values in card["statistics"]["characters"].items()],
        ),
        "",
        *_table(("", ""), _facts(card)),
        "",
        *_subsets(card["statistics"].get("subsets", {})),
        *_sources(card),
        *_counts(card.get("counts", {})),
        "## Where it comes from",
        "",
        *_table(
            ("input", "bytes", "sha256 or revision"),
            [
                (entry.get("file") or entry["hub"], entry.get("bytes", ""), entry.get("sha256") or entry["revision"])
                for entry in card["inputs"]
            ],
        ),
        "",
        "## Files",
        "",
        *_table(("file", "rows", "sha256"), [tuple(shard.values()) for shard in card["files"]]),
        "",
    ]
    return "\n".join(lines)


def _reasons(card: dict[str, Any]) -> list[tuple]:
    both = [*card["refused"].items(), *card["dropped"].items()]
    return [(reason, number, REASONS[reason]) for reason, number in both] or [("none", 0, "nothing was refused")]


def _facts(card: dict[str, Any]) -> list[tuple]:
    facts: list[tuple] = []
    for key, value in card["statistics"].items():
        name = key.replace("_", " ")
        if key == "ratings":
            facts += [(name, f"{entry['rows']:,} rated, mean {entry['mean']}") for name, entry in value.items()]
        elif key not in ("characters", "subsets"):
            facts.append((name, "-" if value is None else f"{value:.1%}" if key.endswith("_share") else value))
    spread = card["prompts_by_number_of_rows"].items()
    facts.append(("prompts by number of rows", "; ".join(f"{number} with {rows}" for rows, number in spread)))
    return facts


def _subsets(subsets: dict[str, int]) -> list[str]:
    if not subsets:
        return []
    largest = sorted(subsets.items(), key=lambda entry: -entry[1])[:MOST_SUBSETS]
    head = f"subset (the {MOST_SUBSETS} largest; card.json has all)" if len(subsets) > MOST_SUBSETS else "subset"
    return [*_table((head, "rows"), largest), ""]


def _sources(card: dict[str, Any]) -> list[str]:
    """Of a mixture: where every source comes from, and what became of its pairs."""
    if "sources" not in card:
        return []
    sources = card["sources"]
    columns = list(dict.fromkeys(name for counts in sources.values() for name in counts))
    rows = [(name, *(counts.get(column, 0) for column in columns)) for name, counts in sources.items()]
    made_of = [(name, *entry.values()) for name, entry in card["ingredients"].items()]
    short = [(name, *entry.values()) for name, entry in card["short"].items()]
    return [
        "## Sources",
        "",
        *_table(("source", *(column.replace("_", " ") for column in columns)), rows),
        "",
        *_table(("source", "asked for", "origin", "licence"), made_of),
        "",
        *(["Fewer pairs than the recipe asks for:", ""] if short else []),
        *([*_table(("source", "asked for", "there are"), short), ""] if short else []),
    ]


def _counts(counts: dict[str, dict[str, int]]) -> list[str]:
    """What else a command counted: a table under a heading each.

    >>> _counts({"Kinds": {"a": 1200}})
    ['## Kinds', '', '|  | number |', '| --- | --- |', '| a | 1,200 |', '']
    """
    return [
        line
        for title, numbers in counts.items()
        for line in (f"## {title}", "", *_table(("", "number"), list(numbers.items())), "")
    ]


def _table(head: tuple, rows: list[tuple]) -> list[str]:
    return [_line(head), _line(("---",) * len(head)), *(_line(row) for row in rows)]


def _line(cells: tuple) -> str:
    texts = [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells]
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"
