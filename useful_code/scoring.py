"""A loaded model and the numbers that it gives to token ids: prompts computed once, batches filled by tokens.

Both kinds of model go through here: a scalar reward model gives one number per sequence, its reward; a pairwise model
gives the logits of its labels at the verdict (`pair_scoring.py`).

Shapes: S sequences of a group (a prompt with each of its responses), K numbers per sequence.
"""

import argparse
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import AutoConfig

from useful_code.armorm import check_gating_tokens, is_armorm, load_armorm
from useful_code.model_files import model_fingerprint
from useful_code.pair_prompt import LABELS, Verdicts, read_verdicts
from useful_code.prefix_attention import positions_depend_on_batch
from useful_code.render import Template, ensure_pad_token, read_template
from useful_code.reward_model import load_reward_model, load_tokenizer, weights_type, why_not_loaded
from useful_code.shared_prefix import default_kernel, num_packed_tokens, pack, pad
from useful_code.token_batches import fill_in_order
from useful_code.user_errors import UserError
from useful_code.verdict_model import labels_of, load_verdict_model

Group = Sequence[Sequence[int]]  # token ids of a prompt with each of its responses
Numbers = list[list[float]]  # (S, K) of one group


@dataclass(frozen=True)
class Scorer:
    """A model in evaluation mode on this process's device, and what belongs to it."""

    model: Any
    template: Template
    pad_token_id: int
    fingerprint: str  # of the weights, their type and the labels
    max_tokens_per_batch: int
    verdicts: Verdicts | None = None  # of a pairwise model; None: a scalar reward model

    def numbers(self, batch: dict, sequences: Sequence[Sequence[int]]) -> Numbers:
        """(S, K), computed in float32, of a packed or padded batch of these sequences."""
        of_labels = {} if self.verdicts is None else {"token_ids": self.verdicts.token_ids}
        return self.model(**batch, **of_labels).logits.float().tolist()

    def identity(self, sequence: Sequence[int]) -> bytes:
        """What the numbers of a sequence depend on, beside the model."""
        return array("i", sequence).tobytes()


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that scores with a model."""
    parser.add_argument("--reward_name_or_path", required=True, help="Directory or hub name of the model.")
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="Type of the weights; auto is bfloat16 on a GPU, float32 on a CPU. The head is float32 in any case.",
    )
    parser.add_argument(
        "--max_tokens_per_batch",
        type=int,
        default=8192,
        help="Tokens of one forward pass, shared prompts counted once.",
    )
    parser.add_argument("--chat_template_path", default=None, help="Jinja file to use instead of the model's template.")
    parser.add_argument("--trust_remote_code", action="store_true", help="Run code that comes with the model.")


def add_tie_argument(parser: argparse.ArgumentParser) -> None:
    """The option of commands that know pairwise models."""
    parser.add_argument(
        "--tie_label", default=None, help="Third verdict of a pairwise model from elsewhere, for example Same or C."
    )


def add_length_argument(parser: argparse.ArgumentParser) -> None:
    """The option of commands that may refuse rows."""

    def tokens(text: str) -> int:
        if (number := int(text)) < 1:
            raise UserError(f"--max_length is {number}; it must be at least 1")
        return number

    parser.add_argument(
        "--max_length", type=tokens, default=None, help="Refuse rows with a longer sequence, in tokens."
    )


def load_reward_scorer(arguments: argparse.Namespace, state: PartialState) -> Scorer:
    """The scalar reward model of `add_model_arguments`. Raises UserError where it has no reward head."""
    name = arguments.reward_name_or_path
    template = read_template(load_tokenizer_of(arguments))
    dtype = weights_type(arguments.dtype, state.device)
    if is_armorm(load_config(arguments)):
        model: Any = load_armorm(name, dtype=dtype)
        check_gating_tokens(model, template)
    else:
        model = load_reward_model(name, arguments.trust_remote_code, dtype=dtype)
    if model.missing_head:
        raise UserError(f"{name!r} has no reward head (a causal language model?); train one first")
    return _ready(model, template, arguments, state)


def load_pair_scorer(arguments: argparse.Namespace, state: PartialState) -> Scorer:
    """The pairwise model of `add_model_arguments`, its labels those of its config, else A, B and `--tie_label`."""
    # A verdict stands behind the assistant header in any case: a template may always write one (the first Llama-3).
    template = read_template(load_tokenizer_of(arguments), may_open_turn=True)
    model = load_verdict_model(
        arguments.reward_name_or_path, arguments.trust_remote_code, dtype=weights_type(arguments.dtype, state.device)
    )
    labels = labels_of(model)
    if arguments.tie_label:
        labels = (*(labels[:2] or LABELS), arguments.tie_label)
    return _ready(model, template, arguments, state, read_verdicts(template, labels))


def load_scorer(arguments: argparse.Namespace, state: PartialState) -> Scorer:
    """Either kind, as the architecture in the model's config says."""
    config = load_config(arguments)
    is_scalar = is_armorm(config) or any("SequenceClassification" in name for name in config.architectures or ())
    return (load_reward_scorer if is_scalar else load_pair_scorer)(arguments, state)


def load_config(arguments: argparse.Namespace) -> Any:
    """The config of the model of `add_model_arguments`. Raises UserError where there is none."""
    name = arguments.reward_name_or_path
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=arguments.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"no model can be loaded from {name!r}: {why_not_loaded(name, error)}") from error


def load_tokenizer_of(arguments: argparse.Namespace) -> Any:
    """The tokenizer of the model of `add_model_arguments`, with the chat template that was asked for."""
    if arguments.max_tokens_per_batch < 1:
        raise UserError(f"--max_tokens_per_batch is {arguments.max_tokens_per_batch}; it must be at least 1")
    return load_tokenizer(arguments.reward_name_or_path, arguments.chat_template_path, arguments.trust_remote_code)


def _ready(model, template, arguments, state, verdicts: Verdicts | None = None) -> Scorer:
    # Architectures with a forward of their own look for the end of a text by this id.
    model.config.pad_token_id = ensure_pad_token(template)
    return Scorer(
        model=model.to(state.device).eval(),
        template=template,
        pad_token_id=model.config.pad_token_id,
        # Other labels give other numbers for the same token ids.
        fingerprint=model_fingerprint(arguments.reward_name_or_path, model, verdicts and verdicts.token_ids),
        max_tokens_per_batch=arguments.max_tokens_per_batch,
        verdicts=verdicts,
    )


def fill_batches(groups: Sequence[Group], max_tokens: int) -> list[list[int]]:
    """Indices of groups per batch: longest first, each batch within `max_tokens` unless one group alone is longer.

    >>> fill_batches([[[1, 2]], [[1, 2, 3, 4]], [[1]]], max_tokens=4)
    [[1], [0, 2]]
    """
    lengths = [num_packed_tokens(group) for group in groups]
    return fill_in_order(sorted(range(len(groups)), key=lambda i: (-lengths[i], i)), lengths, max_tokens)


def fill_padded_batches(groups: Sequence[Group], max_tokens: int) -> list[list[int]]:
    """The same for models that need padding: every sequence of a batch counts with the length of the longest.

    >>> fill_padded_batches([[[1, 2]], [[1, 2, 3, 4]], [[1]]], max_tokens=4)
    [[1], [0, 2]]
    """
    batches: list[list[int]] = []
    width = room = 0
    longest = [max(map(len, group)) for group in groups]
    for index in sorted(range(len(groups)), key=lambda i: (-longest[i], i)):
        if not batches or len(groups[index]) * width > room:
            batches.append([])
            width, room = longest[index], max_tokens
        batches[-1].append(index)
        room -= len(groups[index]) * width
    return batches


def forward_passes(groups: Sequence[Group], max_tokens: int, shares_prefix: bool) -> list[list[tuple[int, list]]]:
    """Which sequences of a batch meet in one forward pass: lists of (index of the group, sequences).

    All of them, but for a group that is longer than `max_tokens` by itself: its sequences are spread over several
    passes, each with its prefix, so that any group can be computed in the memory that the limit stands for.

    >>> forward_passes([[(1, 2, 3), (1, 2, 4), (1, 2, 5)]], max_tokens=4, shares_prefix=True)
    [[(0, [(1, 2, 3), (1, 2, 4)])], [(0, [(1, 2, 5)])]]
    """
    if len(groups) > 1:  # `fill_batches` and `fill_padded_batches` saw to it
        return [list(enumerate(map(list, groups)))]
    passes: list[list] = []
    size = num_packed_tokens if shares_prefix else lambda chosen: len(chosen) * max(map(len, chosen))
    for sequence in sorted(groups[0], key=len, reverse=True):
        if passes and size([*passes[-1], sequence]) <= max_tokens:
            passes[-1].append(sequence)
        else:
            passes.append([sequence])
    return [[(0, chosen)] for chosen in passes]


def model_inputs(
    model: Any, pad_token_id: int, groups: Sequence[Group], max_tokens: int
) -> Iterator[tuple[dict, list[tuple[int, list]]]]:
    """The forward passes of one batch: inputs on the model's device, and the (index of the group, sequences) that the
    rows of the output stand for. Equal sequences of a group come once, as tuples."""
    device = next(model.parameters()).device
    distinct = [list(dict.fromkeys(map(tuple, group))) for group in groups]
    if not model.shares_prefix and positions_depend_on_batch(model):  # on its longest text: every sequence runs alone
        passes = [[(index, [sequence])] for index, group in enumerate(distinct) for sequence in group]
    else:
        passes = forward_passes(distinct, max_tokens, model.shares_prefix)
    for chosen in passes:
        sequences = [group for _, group in chosen]
        batch = pack(sequences, default_kernel()) if model.shares_prefix else pad(sequences, pad_token_id)
        yield {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}, chosen


@torch.inference_mode()
def score_batch(scorer: Scorer, groups: Sequence[Group]) -> list[Numbers]:
    """The numbers of one batch, (S, K) per group. Equal sequences of a group are computed once and get equal ones."""
    numbers_of: list[dict[tuple, list[float]]] = [{} for _ in groups]
    for batch, chosen in model_inputs(scorer.model, scorer.pad_token_id, groups, scorer.max_tokens_per_batch):
        rows = iter(scorer.numbers(batch, [sequence for _, sequences in chosen for sequence in sequences]))
        for index, sequences in chosen:
            numbers_of[index].update((sequence, next(rows)) for sequence in sequences)
    return [[known[tuple(sequence)] for sequence in group] for group, known in zip(groups, numbers_of, strict=True)]


def score_groups(
    scorer: Scorer, groups: Sequence[Group], progress: bool = False
) -> Iterator[tuple[list[int], list[Numbers]]]:
    """Yield (indices, numbers) batch by batch; every group comes once. Progress is counted in tokens."""
    total = sum(map(num_packed_tokens, groups))
    with tqdm(total=total, unit="token", unit_scale=True, desc="scoring", disable=not progress) as bar:
        fill = fill_batches if scorer.model.shares_prefix else fill_padded_batches
        for indices in fill(groups, scorer.max_tokens_per_batch):
            chosen = [groups[i] for i in indices]
            yield indices, score_batch(scorer, chosen)
            bar.update(sum(map(num_packed_tokens, chosen)))
