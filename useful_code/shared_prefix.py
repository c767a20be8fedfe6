"""One row = a prompt and all its responses: the prompt is computed once, and no response sees another.

Every sequence of a group (a prompt with one response) is rendered in full; the longest common prefix of the ids is
stored once, each remainder follows it:

    ids        p p p p a a a b b        one group: prompt pppp, responses aaa and bb
    positions  0 1 2 3 4 5 6 4 5        positions restart after the prefix
    b sees     p p p p . . . b b        and so does aaa: exactly what it would see alone

All groups of a batch stand one after the other in a single row without padding. Rewards and gradients equal those of
separate forward passes up to float32 rounding, for any decoder that runs with Transformers' attention interface.

`prefix_attention.py` makes a model understand such rows.

Shapes: G groups, S sequences (2 per pair), T tokens in the row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Group:
    """Lengths, in tokens, of a shared prefix and of the remainders that follow it."""

    prefix: int
    suffixes: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return self.prefix + sum(self.suffixes)


@dataclass(frozen=True)
class Layout:
    """How the tokens of one packed row belong together. `kernel` is "segments" or "varlen"."""

    groups: tuple[Group, ...]
    kernel: str = "segments"

    @property
    def num_tokens(self) -> int:
        return sum(group.num_tokens for group in self.groups)

    def position_ids(self) -> list[int]:
        positions: list[int] = []
        for group in self.groups:
            positions.extend(range(group.prefix))
            for length in group.suffixes:
                positions.extend(range(group.prefix, group.prefix + length))
        return positions

    def end_indices(self) -> list[int]:
        """Index in the row of the last token of every sequence, group by group: S numbers."""
        ends = []
        start = 0
        for group in self.groups:
            start += group.prefix
            for length in group.suffixes:
                start += length
                ends.append(start - 1)
        return ends

    def sequence_indices(self) -> list[list[int]]:
        """Indices in the row of the tokens of every sequence, the shared prefix first: S lists."""
        sequences = []
        start = 0
        for group in self.groups:
            prefix = list(range(start, start + group.prefix))
            start += group.prefix
            for length in group.suffixes:
                sequences.append([*prefix, *range(start, start + length)])
                start += length
        return sequences


def common_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the longest common prefix, at least one token short of the shortest sequence.

    >>> common_prefix_length([[1, 2, 3], [1, 2, 4, 5]])
    2
    >>> common_prefix_length([[1, 2], [1, 2, 3]])  # every sequence keeps an end of its own
    1
    """
    limit = min(map(len, sequences)) - 1
    first = sequences[0]
    for length in range(limit):
        if any(other[length] != first[length] for other in sequences[1:]):
            return length
    return limit


def num_packed_tokens(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens that one group takes in a packed row."""
    prefix = common_prefix_length(sequences)
    return prefix + sum(len(sequence) - prefix for sequence in sequences)


def pack(groups: Sequence[Sequence[Sequence[int]]], kernel: str = "segments") -> dict:
    """Model inputs for groups of token ids: `input_ids` (1, T), `position_ids` (1, T), `layout`.

    Raises ValueError for an empty group or an empty sequence.

    >>> batch = pack([[[1, 2, 3], [1, 2, 4, 5]]])
    >>> batch["input_ids"].tolist(), batch["position_ids"].tolist(), batch["layout"].end_indices()
    ([[1, 2, 3, 4, 5]], [[0, 1, 2, 2, 3]], [2, 4])
    """
    ids: list[int] = []
    shapes = []
    for sequences in groups:
        if not sequences or not all(sequences):
            raise ValueError("every group needs a sequence and every sequence a token")
        prefix = common_prefix_length(sequences)
        ids.extend(sequences[0][:prefix])
        for sequence in sequences:
            ids.extend(sequence[prefix:])
        shapes.append(Group(prefix, tuple(len(sequence) - prefix for sequence in sequences)))
    layout = Layout(tuple(shapes), kernel)
    return {
        "input_ids": torch.tensor([ids]),  # (1, T)
        "position_ids": torch.tensor([layout.position_ids()]),  # (1, T)
        "layout": layout,
    }


def pad(groups: Sequence[Sequence[Sequence[int]]], pad_token_id: int, side: str = "right") -> dict:
    """The same sequences as a padded batch, for models that cannot share a prefix: (S, L) ids and mask."""
    sequences = [sequence for group in groups for sequence in group]
    length = max(map(len, sequences))
    input_ids = torch.full((len(sequences), length), pad_token_id)
    attention_mask = torch.zeros((len(sequences), length), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        columns = slice(0, len(sequence)) if side == "right" else slice(length - len(sequence), length)
        input_ids[row, columns] = torch.tensor(sequence)
        attention_mask[row, columns] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def flat_places(batch: dict, places: Sequence[Sequence[int]]) -> torch.Tensor:
    """Where places of sequences stand among all tokens of a batch that `pack` or `pad` (on the right) made of them:
    (S, K), rows with fewer places filled with -1. `places` has a list for every sequence, in the batch's order.

    >>> groups = [[[1, 2, 3], [1, 2, 4, 5]]]
    >>> flat_places(pack(groups), [[1], [2, 3]]).tolist(), flat_places(pad(groups, 0), [[1], [2, 3]]).tolist()
    ([[1, -1], [3, 4]], [[1, -1], [6, 7]])
    """
    most = max(map(len, places))
    if layout := batch.get("layout"):
        moved = []
        wanted = iter(places)
        start = 0
        for group in layout.groups:
            suffix = start + group.prefix
            for length in group.suffixes:
                moved.append([(start if p < group.prefix else suffix - group.prefix) + p for p in next(wanted)])
                suffix += length
            start = suffix
    else:
        width = batch["input_ids"].shape[1]
        moved = [[row * width + place for place in chosen] for row, chosen in enumerate(places)]
    return torch.tensor([[*row, *[-1] * (most - len(row))] for row in moved])


def default_kernel() -> str:
    """One FlashAttention call on a GPU; one sdpa call per segment elsewhere."""
    return "varlen" if torch.cuda.is_available() else "segments"
