"""The fourteen comparisons of RRM (arXiv 2409.13156, METHODS 4.2): what is set beside what, on the prompt of i."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from useful_code.chat_pairs import is_tie, preferred_first, prompt_of
from useful_code.reasons import RowRefused


class Comparison(NamedTuple):
    """Two answers on the prompt of i: `left` stands as `chosen`, `right` as `rejected`."""

    number: int
    left: str
    right: str
    tie: bool

    @property
    def name(self) -> str:
        return f"{self.left}_{'ties' if self.tie else 'beats'}_{self.right}"


COMPARISONS = (
    # an answer to the prompt beats an answer to another one, even the worse of two
    Comparison(1, "chosen_i", "chosen_j", False),
    Comparison(2, "chosen_i", "chosen_k", False),
    Comparison(3, "chosen_i", "rejected_j", False),
    Comparison(4, "chosen_i", "rejected_k", False),
    Comparison(5, "rejected_i", "chosen_j", False),
    Comparison(6, "rejected_i", "chosen_k", False),
    Comparison(7, "rejected_i", "rejected_j", False),
    Comparison(8, "rejected_i", "rejected_k", False),
    # of two answers to other prompts neither is better
    Comparison(9, "chosen_j", "rejected_j", True),
    Comparison(10, "chosen_k", "rejected_k", True),
    Comparison(11, "chosen_j", "chosen_k", True),
    Comparison(12, "chosen_j", "rejected_k", True),
    Comparison(13, "chosen_k", "rejected_j", True),
    Comparison(14, "rejected_j", "rejected_k", True),
)
TYPES = ("original", *(comparison.name for comparison in COMPARISONS))  # by number
KEPT_OF_PROMPT = ("source", "subset")  # columns of i that hold for every row on its prompt; scores and ids do not


def augmented_rows(
    i: dict[str, Any], j: dict[str, Any], k: dict[str, Any], seed: int, share: float
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of the comparisons that are kept of checked pairs i, j and k.

    Which ones is decided by a hash of the seed and the texts of the row, so other rows have no say in it. A tie has
    its label of one half, as `check_pair` gives it.

    >>> ask = lambda text: {"role": "user", "content": text}
    >>> say = lambda text: {"role": "assistant", "content": text}
    >>> i, j, k = ({"chosen": [ask(n), say(f"good {n}")], "rejected": [ask(n), say(f"bad {n}")]} for n in "ijk")
    >>> rows = dict(augmented_rows(i, j, k, seed=0, share=1))
    >>> [message["content"] for side in ("chosen", "rejected") for message in rows[7][side]]
    ['i', 'bad i', 'i', 'bad j']
    >>> len(rows), rows[14]["tie"], 0 < len(list(augmented_rows(i, j, k, seed=0, share=0.5))) < 14
    (14, True, True)
    """
    prompt = prompt_of(i)
    answers = {
        f"{side}_{name}": pair[side][-1]
        for name, pair in zip("ijk", map(preferred_first, (i, j, k)), strict=True)
        for side in ("chosen", "rejected")
    }
    hashes = {place: hash_of(message["content"]) for place, message in answers.items()}
    prompt_hash = hash_of(json.dumps(prompt))
    kept = {name: i[name] for name in KEPT_OF_PROMPT if i.get(name) is not None}
    for number, left, right, tie in COMPARISONS:
        if hash_of(f"{seed}:{prompt_hash}:{hashes[left]}:{hashes[right]}") < share * 2**64:
            row = {"chosen": [*prompt, answers[left]], "rejected": [*prompt, answers[right]], **kept}
            yield number, row | ({"label": 0.5, "tie": True} if tie else {})


def number_of(row: dict[str, Any]) -> int:
    """The number of the comparison that a checked row is; 0: an original, as every row without `rrm_type`.

    >>> number_of({}), number_of({"rrm_type": "chosen_j_ties_rejected_j", "tie": True})
    (0, 9)
    >>> number_of({"rrm_type": "chosen_j_ties_rejected_j"})
    Traceback (most recent call last):
    useful_code.reasons.RowRefused: bad_tie: chosen_j_ties_rejected_j, but the row has a winner
    """
    name = row.get("rrm_type") or TYPES[0]
    if name not in TYPES:
        raise RowRefused("wrong_type", f"rrm_type is {str(name)[:60]!a}, none of those of augment_pairs.py")
    number = TYPES.index(name)
    if number and COMPARISONS[number - 1].tie != is_tie(row):
        raise RowRefused("bad_tie", f"{name}, but the row {'is a tie' if is_tie(row) else 'has a winner'}")
    return number


def hash_of(text: str) -> int:
    """64 bits of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
