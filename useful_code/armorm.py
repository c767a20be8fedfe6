"""Load an ArmoRM directory, ours or in the layout of the public checkpoint, without running code that comes with it.

Also: which token closes a prompt. By causality what a decoder knows there does not depend on the answer.

Shapes: S sequences, D hidden size, K objectives.
"""

import os
import types
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig

from useful_code.armorm_model import ArmoRMForSequenceClassification, ArmoRMOutput, find_last
from useful_code.prefix_attention import last_hidden_states, share_prefix_where_possible
from useful_code.reasons import RowRefused
from useful_code.render import Template, render
from useful_code.reward_model import why_not_loaded
from useful_code.shared_prefix import Layout
from useful_code.user_errors import UserError

# Beginnings that a tokenizer may join to what stands before; and reasoning, which some templates put there.
_PROBES = ("answer", "\nanswer", " answer", "1", "(", "é", "<think>\nreason\n</think>\n\nanswer")


def is_armorm(config: Any) -> bool:
    """Whether a config is that of an ArmoRM."""
    return hasattr(config, "num_objectives") and hasattr(config, "gating_temperature")


def gating_tokens(template: Template) -> list[int]:
    """The ids that close a prompt: end of the user's turn and header of the assistant's, whatever the answer is.

    The public ArmoRM reads its gate at the first of the like, `<|eot_id|>` of Llama 3. Found by rendering probes: a
    tokenizer may join the last characters of a header with the first of an answer, and such a token is left out.

    >>> from useful_code.render import read_template
    >>> from useful_code.tiny import byte_tokenizer
    >>> tokenizer = byte_tokenizer("llama3")
    >>> tokenizer.decode(gating_tokens(read_template(tokenizer)))
    '<|eot_id|><|start_header_id|>assistant<|end_header_id|>\\n\\n'
    """
    questions = [[{"role": "user", "content": text}] for text in ("question", "1 2 3")]  # with nothing in common
    asked = [render(template, question) for question in questions]
    num_end = len(os.path.commonprefix([ids[::-1] for ids in asked]))  # tokens that end a user's turn
    if num_end == 0:
        raise UserError("the chat template writes nothing behind a question, so that no token closes the prompt")
    closings = [
        render(template, [*question, {"role": "assistant", "content": probe}])[len(ids) - num_end :]
        for question, ids in zip(questions, asked, strict=True)
        for probe in _PROBES
    ]
    return list(os.path.commonprefix(closings))


def closing_places(
    template: Template,
    tokens: Sequence[int],  # of `gating_tokens`
    chats: Sequence[list[dict[str, str]]],  # of one prompt, each with an answer
    sequences: Sequence[Sequence[int]],  # the same, rendered
) -> list[int]:
    """Where every sequence closes its prompt. Raises RowRefused where nothing does, and where an answer holds what
    closes a prompt, as it can where the template marks turns in plain text: there the gate would read."""
    try:
        places = [find_last(ids, tokens) for ids in sequences]
    except ValueError as error:
        raise RowRefused("no_end_of_prompt", str(error)) from error
    if max(places) >= len(render(template, chats[0][:-1])):
        raise RowRefused("no_end_of_prompt", "the answer holds what closes a prompt")
    return places


def hidden_at_ends_and_gates(
    base_model: torch.nn.Module,
    tokens: Sequence[int],  # of `gating_tokens`
    input_ids: torch.Tensor,  # (1, T) packed, (S, L) padded
    attention_mask: torch.Tensor | None = None,
    layout: Layout | None = None,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states (S, D) at the last token of every sequence, and (S, D) at the one that closes its prompt.

    Raises ValueError for a sequence without `tokens`.
    """
    hidden = last_hidden_states(base_model, input_ids, attention_mask, layout=layout, **kwargs)
    if layout is not None:
        places = [(0, columns) for columns in layout.sequence_indices()]
    elif attention_mask is None:
        places = [(row, list(range(input_ids.shape[1]))) for row in range(len(input_ids))]
    else:
        places = [(row, mask.nonzero().flatten().tolist()) for row, mask in enumerate(attention_mask)]
    ids = input_ids.tolist()
    rows = [row for row, _ in places]
    gates = [columns[find_last([ids[row][column] for column in columns], tokens)] for row, columns in places]
    return hidden[rows, [columns[-1] for _, columns in places]], hidden[rows, gates]


def load_armorm(path: str, **kwargs) -> ArmoRMForSequenceClassification:
    """The model of an ArmoRM directory, ready for packed and padded batches; `kwargs` go to `from_pretrained`.

    After that `model(**pack(...)).logits` is (S, 1), as of any scalar reward model; `rewards` and `gating_output` are
    (S, K). Raises UserError when it cannot be loaded or a part is missing.
    """
    settings = {"dtype": torch.float32} | kwargs
    try:
        config = AutoConfig.from_pretrained(path)
        loaded: Any = ArmoRMForSequenceClassification.from_pretrained(
            path, config=config, output_loading_info=True, **settings
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise UserError(f"no ArmoRM can be loaded from {path!r}: {why_not_loaded(path, error)}") from error
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f"{path!r} is no whole ArmoRM: it has no {', '.join(missing[:3])}")
    model.missing_head = False
    model.autocast_off = False
    model.forward = types.MethodType(_forward, model)
    share_prefix_where_possible(model.model, not kwargs.get("attn_implementation"))
    model.shares_prefix = model.model.shares_prefix
    return model


def check_gating_tokens(model: ArmoRMForSequenceClassification, template: Template) -> None:
    """Raise UserError where the model's gate would look for other tokens than the chat template writes."""
    chat = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    found = gating_tokens(template)
    try:
        asked = find_last(render(template, chat), model.gating_tokens)
    except ValueError:
        asked = -1
    if asked != find_last(render(template, chat), found):
        raise UserError(
            f"the gate of this ArmoRM reads its prompt at the ids {model.gating_tokens}, and its chat template closes "
            f"a prompt with {found}: give the template that it was trained with (--chat_template_path)"
        )


def _forward(self, input_ids: torch.Tensor, **kwargs) -> ArmoRMOutput:
    with torch.autocast(input_ids.device.type, enabled=False) if self.autocast_off else nullcontext():
        try:
            hidden = hidden_at_ends_and_gates(self.model, self.gating_tokens, input_ids, **kwargs)
        except ValueError as error:
            raise UserError(f"a row cannot be scored: {error}") from error
        output = self.judge(*hidden)
    output.logits = output.score[:, None]  # (S, 1)
    return output
