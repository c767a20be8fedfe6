"""Rows as a person reads them: the prompt, and below it the answers side by side with their differences marked."""

import difflib
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from useful_code.chat_pairs import Message, is_tie, prompt_of
from useful_code.inspecting.seen import Shown
from useful_code.inspecting.steps import RIGHT

MOST_CHARACTERS = 20_000  # of one text that stand on the page
MOST_WORDS = 2_000  # of both answers together that are compared; the time grows with their product
ALIKE = 0.4  # below this share of common words, marks would cover everything and tell nothing

STYLE = """
.row { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem;
  margin: 0 0 1rem; }
.row > p { margin: 0 0 .5rem; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; font-size: .9rem; max-height: 26rem;
  overflow-y: auto; margin: .15rem 0 .6rem; }
.role { color: var(--soft); font-size: .8rem; font-weight: 600; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; border-top: 1px solid var(--line);
  padding-top: .6rem; }
.sides > div { min-width: 0; }
@media (max-width: 46rem) { .sides { grid-template-columns: 1fr; } }
mark { background: #cfe8d5; color: inherit; border-radius: .15rem; }
.rejected mark { background: #f6d5c8; }
.findings li { margin-bottom: .6rem; }
ol.steps { padding-left: 2rem; }
ol.steps .text { max-height: none; }
.wrong { color: #b3401f; } .right { color: #17794a; }
@media (prefers-color-scheme: dark) { mark { background: #1f5136; } .rejected mark { background: #6b2f1a; }
  .wrong { color: #f0906d; } .right { color: #66c796; } }
"""


def pair_html(shown: Shown) -> str:
    row = shown.row
    chosen, rejected = row["chosen"][-1]["content"], row["rejected"][-1]["content"]
    marked = differences(chosen, rejected)
    sides = ""
    for side, text, html in (("chosen", chosen, marked[0]), ("rejected", rejected, marked[1])):
        score = f", score {row[f'{side}_score']:g}" if f"{side}_score" in row else ""
        head = f"{side}, {len(text):,} characters{score}"
        sides += f'<div class="{side}"><span class="role">{head}</span><div class="text">{html}</div></div>'
    facts = ["tie"] if is_tie(row) else []
    facts += [f"{name} {row[name]:g}" for name in ("margin", "label") if name in row]
    return _row(shown, facts, _messages(prompt_of(row)) + f'<div class="sides">{sides}</div>')


def rated_html(shown: Shown) -> str:
    row = shown.row
    facts = [
        f"{name} {value:g} ({row['scales'][name][0]:g} to {row['scales'][name][1]:g})"
        for name, value in row["ratings"].items()
    ]
    return _row(shown, facts, _messages(row["messages"]))


def steps_html(shown: Shown) -> str:
    row = shown.row
    steps = ""
    for step, label in zip(row["completions"], row["labels"], strict=True):
        kind = "" if label is None else "right" if label >= RIGHT else "wrong"
        name = "no label" if label is None else f"{kind} ({label:g})"
        steps += f'<li><span class="role {kind}">{name}</span><div class="text">{cut(step)}</div></li>'
    facts = [] if row.get("outcome") is None else [f"the answer is {'right' if row['outcome'] else 'wrong'}"]
    prompt = _messages([{"role": "prompt", "content": row["prompt"]}])
    return _row(shown, facts, f'{prompt}<ol class="steps">{steps}</ol>')


SHOW: dict[str, Callable[[Shown], str]] = {"pairs": pair_html, "ratings": rated_html, "steps": steps_html}


def _row(shown: Shown, facts: Sequence[str], body: str) -> str:
    row: dict[str, Any] = shown.row
    subset = [str(row[name]) for name in ("source", "subset") if row.get(name)]
    return box([text[:200] for text in [shown.place, *dict.fromkeys(subset), *facts]], body)


def box(head: Sequence[str], body: str) -> str:
    """One row on the page: a line about it, and below it the row as HTML."""
    return f'<div class="row"><p class="note">{" · ".join(map(escape, head))}</p>{body}</div>'


def _messages(messages: Sequence[Message]) -> str:
    return "".join(
        f'<span class="role">{escape(message["role"])}</span><div class="text">{cut(message["content"])}</div>'
        for message in messages
    )


def cut(text: str, most: int = MOST_CHARACTERS, length: int | None = None) -> str:
    """A text as HTML; what is beyond `most` characters, of `length` if the text itself was cut before, is only said."""
    more = (len(text) if length is None else length) - most
    return escape(text[:most]) + (f" <i>[and {more:,} more characters]</i>" if more > 0 else "")


def differences(first: str, second: str) -> tuple[str, str]:
    """Both texts as HTML, with the words marked that the other does not have there.

    Nothing is marked where the texts are too long to compare or have too little in common.

    >>> differences("It is a cat.", "It is a dog.")
    ('It is a <mark>cat.</mark>', 'It is a <mark>dog.</mark>')
    """
    words = [re.findall(r"\s+|\S+", text) for text in (first, second)]
    if len(words[0]) + len(words[1]) > MOST_WORDS or max(len(first), len(second)) > MOST_CHARACTERS:
        return cut(first), cut(second)
    matcher = difflib.SequenceMatcher(None, words[0], words[1], autojunk=False)
    shared = sum(
        not word.isspace() for at, _, size in matcher.get_matching_blocks() for word in words[0][at : at + size]
    )
    if 2 * shared < ALIKE * sum(not word.isspace() for word in words[0] + words[1]):
        return cut(first), cut(second)
    html = ["", ""]
    for kind, *ends in matcher.get_opcodes():
        for side, (start, end) in enumerate((ends[:2], ends[2:])):
            text = escape("".join(words[side][start:end]))
            html[side] += f"<mark>{text}</mark>" if kind != "equal" and text else text
    return html[0], html[1]
