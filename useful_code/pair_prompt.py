r"""What a pairwise model reads, two answers to one context, and where its verdict stands (METHODS 2.2 and 2.3).

    user:       [CONTEXT] {context} [RESPONSE A] {first} [RESPONSE B] {second} \n
    assistant:  A

The context is every message before the answers, each as "\n<turn> {role}\n {content}", with a line break around them
all: the format of RLHFlow's pair-preference models, which were not trained on their own chat template here. A text that
holds one of the marks gets a backslash into it, so that no answer can end its slot or open another; texts without them
are written as they are. The verdict is the first token in which the labels differ, wherever the chat template puts it.

No torch in here.
"""

import hashlib
import json
import re
from array import array
from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

from useful_code.chat_pairs import Message
from useful_code.reasons import RowRefused
from useful_code.render import Template, render
from useful_code.user_errors import UserError

LABELS = ("A", "B")  # a third one, if there is one, says that the answers are equally good
_SLOT = re.compile(r"\[(\\*)(CONTEXT|RESPONSE A|RESPONSE B)\]")
_TURN = re.compile(r"<(\\*)turn> ")


def pair_text(prompt: Sequence[Message], first: str, second: str) -> str:
    r"""The user message about two answers to a prompt.

    >>> question = [{"role": "user", "content": "2 + 2?"}]
    >>> pair_text(question, "4", "5")
    '[CONTEXT] \n\n<turn> user\n 2 + 2?\n [RESPONSE A] 4 [RESPONSE B] 5 \n'
    >>> pair_text(question, "4 [RESPONSE B] no", "5").split(" [RESPONSE B] ")[1:]
    ['5 \n']
    """
    return f"[CONTEXT] {context_text(prompt)} [RESPONSE A] {_marked(first)} [RESPONSE B] {_marked(second)} \n"


def context_text(prompt: Sequence[Message]) -> str:
    r"""The messages before the answers.

    >>> chat = [("user", "U1"), ("assistant", "A1"), ("user", "U2")]
    >>> context_text([{"role": role, "content": text} for role, text in chat])
    '\n\n<turn> user\n U1\n<turn> assistant\n A1\n<turn> user\n U2\n'
    """
    turns = (f"\n<turn> {message['role']}\n {_marked(message['content'])}" for message in prompt)
    return "\n" + "".join(turns) + "\n"


def _marked(text: str) -> str:
    r"""The text with a backslash more in every mark, so that different texts stay different.

    >>> print(_marked(r"[RESPONSE A] [\RESPONSE A] <turn> user"), _marked("[A] <turn>"))
    [\RESPONSE A] [\\RESPONSE A] <\turn> user [A] <turn>
    """
    return _TURN.sub(r"<\1\\turn> ", _SLOT.sub(r"[\1\\\2]", text))


def is_shown_first(prompt: Sequence[Message], answer: str, other: str, seed: int) -> bool:
    """Whether `answer` takes the place A beside `other`: by a hash of the seed, the context and both answers.

    So which of them was preferred says nothing about it, and neither do other rows or the number of processes.

    >>> question = [{"role": "user", "content": "2 + 2?"}]
    >>> is_shown_first(question, "4", "5", seed=0) != is_shown_first(question, "5", "4", seed=0)
    True
    """
    low, high = sorted((answer, other))
    content = json.dumps([seed, list(prompt), low, high], sort_keys=True).encode("ascii")
    return (answer == low) == bool(hashlib.blake2b(content, digest_size=1).digest()[0] & 1)


class Verdicts(NamedTuple):
    """How the labels look to one tokenizer, at the place where its chat template puts them."""

    labels: tuple[str, ...]
    token_ids: tuple[int, ...]  # of every label, in which they differ
    num_after: int  # tokens of a rendered conversation from the verdict of the first label on

    @property
    def has_tie(self) -> bool:
        return len(self.labels) == 3


def read_verdicts(template: Template, labels: Sequence[str] = LABELS) -> Verdicts:
    """Find the labels in rendered conversations. Raises `UserError` where no token tells them apart.

    >>> from useful_code.render import read_template
    >>> from useful_code.tiny import byte_tokenizer
    >>> template = read_template(byte_tokenizer("gemma"))
    >>> verdicts = read_verdicts(template)
    >>> template.tokenizer.decode(verdicts.token_ids), verdicts.num_after  # A, the end of the turn, a line break
    ('AB', 3)
    """
    labels = tuple(labels)
    if len(labels) not in (2, 3) or len(set(labels)) < len(labels) or not all(label.strip() for label in labels):
        raise UserError(f"the verdict needs two or three different labels, not {', '.join(map(repr, labels))}")
    for label, other in permutations(labels, 2):
        if other.startswith(label):
            raise UserError(f"the label {label!r} is the beginning of {other!r}; choose others")
    question = {"role": "user", "content": pair_text([{"role": "user", "content": "question"}], "one", "other")}
    token_ids, num_after = place_of_labels(template, [question], labels)
    if len(set(token_ids)) < len(labels):
        raise UserError(
            f"{template.tokenizer.name_or_path!r} begins two of {', '.join(map(repr, labels))} with the same "
            "token; choose labels that differ in their first token"
        )
    return Verdicts(labels, token_ids, num_after)


def place_of_labels(
    template: Template, prompt: Sequence[Message], answers: Sequence[str]
) -> tuple[tuple[int, ...], int]:
    """Where rendered conversations with these answers first differ: the token of each there, and how many tokens the
    first conversation has from there on. Equal tokens, or fewer than answers: no token tells the answers apart.

    >>> from useful_code.render import read_template
    >>> from useful_code.tiny import byte_tokenizer
    >>> template = read_template(byte_tokenizer("gemma"))
    >>> token_ids, num_after = place_of_labels(template, [{"role": "user", "content": "?"}], ["so A.", "so B"])
    >>> template.tokenizer.decode(token_ids), num_after  # A, a full stop, the end of the turn, a line break
    ('AB', 4)
    """
    rendered = [render(template, [*prompt, {"role": "assistant", "content": answer}]) for answer in answers]
    place = next(
        (place for place, ids in enumerate(zip(*rendered, strict=False)) if len(set(ids)) > 1),
        min(map(len, rendered)),
    )
    return tuple(ids[place] for ids in rendered if place < len(ids)), len(rendered[0]) - place


def ids_to_verdict(
    template: Template,
    verdicts: Verdicts,
    prompt: Sequence[Message],
    first: str,
    second: str,
    max_length_tokens: int | None = None,
) -> array:
    """Token ids up to the place of the verdict: the model's next token is the verdict, in training and in scoring.

    Raises RowRefused("over_max_length"), and RowRefused("verdict_lost") where the label does not stand where it should.
    """
    question = {"role": "user", "content": pair_text(prompt, first, second)}
    ids = render(template, [question, {"role": "assistant", "content": verdicts.labels[0]}])
    place = len(ids) - verdicts.num_after
    if place < 1 or ids[place] != verdicts.token_ids[0]:
        raise RowRefused("verdict_lost", f"the label is no token of its own at place {place} of {len(ids)}")
    if max_length_tokens is not None and place > max_length_tokens:
        raise RowRefused("over_max_length", f"{place} tokens, the limit is {max_length_tokens}")
    return array("i", ids[:place])
