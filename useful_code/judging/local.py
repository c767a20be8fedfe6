"""A judge on this machine: any causal language model of Transformers that has a chat template.

Texts are written in batches, padded on the left, longest first. Random numbers belong to a chat, not to a batch: at any
temperature a reply depends on its chat and seed alone (rounding aside). Labels are weighed where the model's own chat
template puts them, with the logits of the first token in which they differ.

Shapes: B chats, T tokens, V vocabulary, K labels.
"""

from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from useful_code.judging.interface import Chat, Judge, Replies, Reply, Sampling
from useful_code.model_files import model_fingerprint
from useful_code.pair_prompt import place_of_labels
from useful_code.reasons import RowRefused
from useful_code.render import Template, ensure_pad_token, read_template, render, render_open
from useful_code.reward_model import best_device, load_tokenizer, weights_type
from useful_code.user_errors import UserError
from useful_code.verdict_model import load_causal_model

PROBE: Chat = [{"role": "user", "content": "question"}]


def local_judge(
    path: str,
    dtype: str = "auto",
    max_tokens_per_batch: int = 16384,
    max_new_tokens: int = 1024,
    chat_template_path: str | None = None,
    trust_remote_code: bool = False,
) -> Judge:
    """Load a model and its tokenizer from a directory or the hub. Raises UserError where that cannot be done.

    `dtype` auto is bfloat16 on a GPU and float32 on a CPU. `max_tokens_per_batch` counts padding and new tokens. Chats
    that leave no room for `max_new_tokens` are refused by the judge's `check`. A chat that ends with an assistant's
    message is continued there.
    """
    template = read_template(load_tokenizer(path, chat_template_path, trust_remote_code))
    device = best_device()
    model = load_causal_model(path, trust_remote_code, dtype=weights_type(dtype, device)).to(device).eval()
    pad_token_id = ensure_pad_token(template)
    stop_ids = _stop_ids(model, template)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    def check(chat: Chat) -> None:
        number = len(render_open(template, chat)) + max_new_tokens
        if limit is not None and number > limit:
            raise RowRefused("over_max_length", f"{number} tokens with {max_new_tokens} new ones, the limit is {limit}")

    def generate(chats: Sequence[Chat], seeds: Sequence[int], sampling: Sampling) -> Replies:
        prompts = [render_open(template, chat) for chat in chats]
        for places in _fill(prompts, max_tokens_per_batch, sampling.max_new_tokens):
            noise = GumbelNoise(sampling.temperature, [seeds[i] for i in places]) if sampling.temperature else None
            settings = {"max_new_tokens": sampling.max_new_tokens, "eos_token_id": stop_ids}
            batch = [prompts[i] for i in places]
            written = _run(model, batch, pad_token_id, noise, **settings).sequences  # (B, T + new)
            for i, ids in zip(places, written[:, max(map(len, batch)) :].tolist(), strict=True):
                end = next((place for place, token in enumerate(ids) if token in stop_ids), None)
                begun = prompts[i][-1:] if chats[i][-1]["role"] == "assistant" else []
                text = decode_behind(template.tokenizer, begun, ids[:end])
                new_tokens = len(ids) if end is None else end + 1
                yield i, Reply(text, end is not None, None, len(prompts[i]), new_tokens)

    def weigh(chats: Sequence[Chat], before: str, labels: Sequence[str]) -> Replies:
        place = find_labels(template, before, labels)
        prompts = [ids_to_label(template, place, chat) for chat in chats]
        for places in _fill(prompts, max_tokens_per_batch, 1):
            batch = [prompts[i] for i in places]
            logits = _run(model, batch, pad_token_id, None, max_new_tokens=1, output_logits=True).logits[0]  # (B, V)
            weighed = torch.log_softmax(logits.float(), dim=-1)[:, list(place.token_ids)]  # (B, K)
            for i, log_probabilities in zip(places, weighed.tolist(), strict=True):
                # 1e-30 of a probability is none; minus infinity would be no JSON.
                yield i, Reply("", True, [max(value, -100.0) for value in log_probabilities], len(prompts[i]), 1)

    jinja = Path(chat_template_path).read_text(encoding="utf-8") if chat_template_path else None
    return Judge(path, model_fingerprint(path, model, "local", jinja), generate, weigh, check)


def decode_behind(tokenizer: Any, before: list[int], ids: list[int]) -> str:
    """The text of tokens behind others: alone, SentencePiece would leave out the space that it begins with."""
    anchor, text = (tokenizer.decode(part, skip_special_tokens=True) for part in (before, before + ids))
    return text[len(anchor) :] if text.startswith(anchor) else tokenizer.decode(ids, skip_special_tokens=True)


class LabelPlace(NamedTuple):
    """Where labels stand in a rendered conversation."""

    first_text: str  # of an answer with the first label
    token_ids: tuple[int, ...]  # of every label, in which they differ
    num_after: int  # tokens from the label on


def find_labels(template: Template, before: str, labels: Sequence[str]) -> LabelPlace:
    """Look for the labels behind the text `before` in rendered answers. UserError where no token tells them apart.

    >>> from useful_code.tiny import byte_tokenizer
    >>> template = read_template(byte_tokenizer("gemma"))
    >>> place = find_labels(template, "[[", "AB")
    >>> template.tokenizer.decode(place.token_ids), place.num_after  # A ] ] <end_of_turn> and a line break
    ('AB', 5)
    """
    texts = [f"{before}{label}]]" for label in labels]
    token_ids, num_after = place_of_labels(template, PROBE, texts)
    if len(set(token_ids)) < len(labels) or any(b.startswith(a) for a, b in permutations(labels, 2)):
        raise UserError(
            f"{template.tokenizer.name_or_path!r} begins two of the labels {', '.join(labels)} with the same token; "
            "use --verdict generated"
        )
    return LabelPlace(texts[0], token_ids, num_after)


def ids_to_label(template: Template, place: LabelPlace, chat: Chat) -> list[int]:
    """Token ids of a chat and its answer up to the label: the next token is the label."""
    ids = render(template, [*chat, {"role": "assistant", "content": place.first_text}])
    end = len(ids) - place.num_after
    if end < 1 or ids[end] != place.token_ids[0]:
        raise UserError(
            f"the chat template of {template.tokenizer.name_or_path!r} changes an answer that ends in a label; use "
            "--verdict generated"
        )
    return ids[:end]


class GumbelNoise(LogitsProcessor):
    """Makes the likeliest token a random one: argmax(logits / temperature + Gumbel noise) is a draw from the softmax.

    Every row has random numbers of its own, so its text does not depend on its neighbours.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]):
        self._temperature = temperature
        self._seeds = list(seeds)
        self._generators: list[torch.Generator] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # (B, T), (B, V)
        if not self._generators:
            self._generators = [torch.Generator(scores.device).manual_seed(seed) for seed in self._seeds]
        waiting = [torch.empty(scores.shape[1], device=scores.device) for _ in self._generators]
        for row, generator in zip(waiting, self._generators, strict=True):
            row.exponential_(generator=generator)
        noise = -torch.log(torch.stack(waiting).clamp_min(1e-30))  # (B, V); minus the log of an exponential is Gumbel
        return scores.float() / self._temperature + noise


@torch.inference_mode()
def _run(model: Any, prompts: Sequence[Sequence[int]], pad_token_id: int, noise: GumbelNoise | None, **settings) -> Any:
    """`model.generate` on prompts padded on the left, always the likeliest token; the model's own sampling is off."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_token_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        logits_processor=LogitsProcessorList([noise] if noise else []),
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        num_beams=1,
        use_cache=True,  # a model that was saved in training may say otherwise
        repetition_penalty=1.0,
        pad_token_id=pad_token_id,
        return_dict_in_generate=True,
        **settings,
    )


def _fill(prompts: Sequence[Sequence[int]], max_tokens: int, max_new_tokens: int) -> Iterator[list[int]]:
    """Places of prompts per batch, longest first; a batch with padding and new tokens stays within `max_tokens`.

    >>> list(_fill([[1], [1, 2, 3], [1, 2]], max_tokens=8, max_new_tokens=1))
    [[1, 2], [0]]
    """
    batch: list[int] = []
    for place in sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i)):
        if batch and (len(batch) + 1) * (len(prompts[batch[0]]) + max_new_tokens) > max_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _stop_ids(model: Any, template: Template) -> list[int]:
    """Tokens that end an answer: those of the model's generation settings, and the one its chat template writes."""
    stated = model.generation_config.eos_token_id
    ids = {template.tokenizer.eos_token_id, *(stated if isinstance(stated, list) else [stated])}
    ids |= set(template.end_ids[:1]) & set(template.tokenizer.all_special_ids)
    ids |= {i for i in template.end_ids[:1] if i in getattr(template.tokenizer, "added_tokens_decoder", {})}
    return sorted(i for i in ids if i is not None)
