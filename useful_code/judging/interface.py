"""What a judge is to the rest: two plain callables, one that writes texts and one that weighs labels.

A judge may answer in any order, as soon as it knows, so that every reply can be stored at once.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from useful_code.chat_pairs import Message

Chat = Sequence[Message]


class Sampling(NamedTuple):
    """How a text is written. The temperature 0 takes the likeliest token; `seed` matters above it."""

    temperature: float = 0.0
    max_new_tokens: int = 1024
    seed: int = 0


class Reply(NamedTuple):
    """What a judge said to one chat."""

    text: str = ""
    finished: bool = True  # False: cut off at the limit of tokens
    log_probabilities: list[float] | None = None  # of every label, where labels were asked for
    prompt_tokens: int = 0
    new_tokens: int = 0
    requests: int = 1  # that it took
    error: str = ""  # why there is no text; such a reply is not kept


Replies = Iterator[tuple[int, Reply]]  # (place of the chat in the call, reply), every place once
# Chats, with a seed for every one of them, to texts.
Generate = Callable[[Sequence[Chat], Sequence[int], Sampling], Replies]
# Chats, and the text before the label, to log-probabilities of the labels in its place.
Weigh = Callable[[Sequence[Chat], str, Sequence[str]], Replies]


def accept_all(chat: Chat) -> None:
    """The `check` of a judge that learns only by asking whether it can read a chat."""


class Judge(NamedTuple):
    """`identity` holds everything, besides the question, on which replies depend: it is part of the cache's keys."""

    name: str
    identity: str
    generate: Generate
    weigh: Weigh
    check: Callable[[Chat], None] = accept_all  # raises RowRefused for a chat that the judge cannot read
