"""ArmoRM (arXiv 2406.12845): K named ratings of an answer, weighed by a gate that sees the prompt alone.

    rewards       = h W^T                                 h: last hidden state of the last token
    gating_output = scale * softmax(MLP(p) / temperature) p: last hidden state of the token that closes the prompt
    score         = sum_k gating_output_k (rewards T)_k   T takes the part that follows verbosity out of every rating

This file needs PyTorch and Transformers alone. It is exported beside the weights as modeling_armorm.py, so that

    AutoModelForSequenceClassification.from_pretrained(directory, trust_remote_code=True)

works without the repository that it comes from. Tensor names, config fields and output fields are those of the public
checkpoint RLHFlow/ArmoRM-Llama3-8B-v0.1, for any decoder of Transformers.

Shapes: B sequences, L padded length, D hidden size, K objectives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

# Llama 3: end of the user's turn, header of the assistant's. The public checkpoint's config does not name it.
LLAMA3_GATING_TOKENS = [128009, 128006, 78191, 128007, 271]


@dataclass
class ArmoRMOutput(ModelOutput):
    """What the model says of B sequences."""

    rewards: torch.Tensor | None = None  # (B, K) ratings, before verbosity is taken out
    hidden_state: torch.Tensor | None = None  # (B, D) of the last token
    prompt_embedding: torch.Tensor | None = None  # (B, D) of the token that closes the prompt
    gating_output: torch.Tensor | None = None  # (B, K) not negative, of one sum
    score: torch.Tensor | None = None  # (B,)
    logits: torch.Tensor | None = None  # (B,) the score again, where Transformers' pipelines look for it


class GatingNetwork(nn.Module):
    """From the prompt's embedding to the weight of every objective, in float32."""

    def __init__(self, in_features: int, out_features: int, temperature: float, hidden_dim: int, n_hidden: int):
        super().__init__()
        self.temperature = temperature
        sizes = [in_features, *[hidden_dim] * n_hidden, out_features]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.logit_scale = nn.Parameter(torch.ones(1))

    def forward(self, prompt_embedding: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
        """(..., D) to (..., K): not negative, summing to `logit_scale` over the objectives."""
        with torch.autocast(prompt_embedding.device.type, enabled=False):
            values = prompt_embedding.float()
            layer: Any
            for number, layer in enumerate(self.layers):
                values = F.linear(values, layer.weight.float(), layer.bias.float())
                if number < len(self.layers) - 1:
                    values = F.dropout(F.relu(values), dropout)
            return F.softmax(values / self.temperature, dim=-1) * self.logit_scale.float()


class ArmoRMForSequenceClassification(PreTrainedModel):
    """A decoder with K linear heads, and the gate that weighs them."""

    base_model_prefix = "model"
    _keep_in_fp32_modules_strict = ["regression_layer", "gating", "reward_transform_matrix"]

    def __init__(self, config):
        decoder = MODEL_MAPPING[type(config)]
        for flag in dir(decoder):
            if flag.startswith("_supports_") and isinstance(getattr(decoder, flag), bool):
                setattr(self, flag, getattr(decoder, flag))  # sdpa, flash attention, ...: what its decoder can do
        super().__init__(config)
        self.model = AutoModel.from_config(config)
        self.regression_layer = nn.Linear(config.hidden_size, config.num_objectives, bias=False)
        # A parameter that nothing trains: Transformers 4 keeps no buffer in float32.
        self.reward_transform_matrix = nn.Parameter(torch.eye(config.num_objectives), requires_grad=False)
        self.gating = GatingNetwork(
            config.hidden_size,
            config.num_objectives,
            config.gating_temperature,
            config.gating_hidden_dim,
            config.gating_n_hidden,
        )
        self.post_init()

    @property
    def gating_tokens(self) -> list[int]:
        """The ids whose last occurrence closes the prompt."""
        return list(getattr(self.config, "gating_tokens", None) or LLAMA3_GATING_TOKENS)

    def forward(
        self,
        input_ids: torch.Tensor,  # (B, L) padded on either side
        attention_mask: torch.Tensor | None = None,  # (B, L)
        position_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> ArmoRMOutput:
        """Without a mask, padding is the pad tokens at both ends. Raises ValueError for a sequence without the end of a
        prompt."""
        if attention_mask is None:
            attention_mask = mask_of(input_ids, self.config.pad_token_id)
        if position_ids is None:  # the same for a text on whichever side padding stands
            position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        kwargs = {name: value for name, value in kwargs.items() if name not in ("use_cache", "labels")}
        hidden = self.model(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False, **kwargs
        ).last_hidden_state  # (B, L, D)
        ends, gates = [], []
        for row, mask in zip(input_ids, attention_mask, strict=True):
            columns = mask.nonzero().flatten()  # of the tokens that are no padding
            ends.append(columns[-1])
            gates.append(columns[find_last(row[columns].tolist(), self.gating_tokens)])
        rows = torch.arange(len(input_ids), device=hidden.device)
        return self.judge(hidden[rows, torch.stack(ends)], hidden[rows, torch.stack(gates)])

    def judge(self, hidden_state: torch.Tensor, prompt_embedding: torch.Tensor) -> ArmoRMOutput:
        """What follows from the two hidden states (B, D) of every sequence, in float32."""
        with torch.autocast(hidden_state.device.type, enabled=False):
            rewards = F.linear(hidden_state.float(), self.regression_layer.weight.float())  # (B, K)
            gating_output = self.gating(prompt_embedding)  # (B, K)
            score = (gating_output * (rewards @ self.reward_transform_matrix.float())).sum(-1)  # (B,)
        return ArmoRMOutput(rewards, hidden_state, prompt_embedding, gating_output, score, score)


def mask_of(input_ids: torch.Tensor, pad_token_id: int | None) -> torch.Tensor:
    """1 where a token (B, L) is none of the pad tokens before the first and behind the last other one.

    Within a text the same token may have a meaning: that of some models closes every turn.

    >>> mask_of(torch.tensor([[0, 0, 5, 0, 6, 0]]), 0).tolist()
    [[0, 0, 1, 1, 1, 0]]
    """
    if pad_token_id is None:
        return torch.ones_like(input_ids)
    is_other = (input_ids != pad_token_id).long()
    has_one_before, has_one_behind = is_other.cumsum(-1) > 0, is_other.flip(-1).cumsum(-1).flip(-1) > 0
    return (has_one_before & has_one_behind).long()


def find_last(ids: Sequence[int], pattern: Sequence[int]) -> int:
    """Where `pattern` begins for the last time. Raises ValueError where it does not occur.

    >>> find_last([5, 1, 2, 5, 1, 2, 7], [1, 2])
    4
    """
    first, length = pattern[0], len(pattern)
    for start in range(len(ids) - length, -1, -1):
        if ids[start] == first and list(ids[start : start + length]) == list(pattern):
            return start
    raise ValueError(
        f"no token of this text closes a prompt: the ids {list(pattern)} do not occur; render it with the chat template"
    )
