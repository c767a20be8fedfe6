"""What the conversion has to know of one source; the table of all of them is in `table.py`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from useful_code.reasons import RowRefused
from useful_code.sources.fields import Row


class Made(NamedTuple):
    """A row of ours, and where the raw rows it was made of stand in their group, from 0; the first one names it."""

    row: Row
    places: tuple[int, ...]


class Loss(NamedTuple):
    """A raw row, a part of it, or a pair of two raw rows, that gave nothing; places as in `Made`."""

    places: tuple[int, ...]
    refused: RowRefused


class Source(NamedTuple):
    """One raw format, and the function that converts it.

    `convert` takes one raw row (a dict whose values may be anything, none of it trusted) and returns a list:

    - kind "pairs": chosen/rejected rows as in chat_pairs.py, not yet checked, with `source_id` and `subset` where
      the source has them;
    - kind "answers": `Answer`s, of which pairs are made within the row, or over all rows of a prompt (`group_key`);
    - kind "ratings": rows with messages and ratings (rated_rows.py); `scales` are added from here;
    - kind "steps": rows as in step_rows.py.

    It raises `RowRefused` for a row that gives nothing, and may put a `RowRefused` into the list for a part that
    cannot be used. With kind "pairs" and a `group_key`, `convert` takes the list of all rows with one key instead,
    and returns a list of `Made` and `Loss`.
    """

    kind: str
    origin: str  # name on the hub, or repository, and which part of it
    licence: str  # as the data card or repository states it
    fields: str  # the raw columns that are read
    rule: str  # how a raw row becomes rows of ours
    convert: Callable[[Any], list]
    group_key: Callable[[Row], str] | None = None
    scales: dict[str, tuple[float, float]] | None = None  # objective -> lowest and highest rating
