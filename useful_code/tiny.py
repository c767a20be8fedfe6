"""Tiny random models and tokenizers, built in memory: for tests, the known-truth claims and a first dry run.

The chat templates are written here in the style of the public ones (Llama-3, Gemma, ChatML as used by Qwen and
SmolLM2); they have not been compared with the files on the hub.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# style: template, special tokens, and which of them are BOS, EOS and padding
STYLES: dict[str, tuple[str, list[str], dict[str, str]]] = {
    "llama3": (
        LLAMA3_TEMPLATE,
        [
            "<|begin_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
            "<|finetune_right_pad_id|>",
        ],
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    ),
    "gemma": (
        GEMMA_TEMPLATE,
        ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"],
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    ),
    "chatml": (
        CHATML_TEMPLATE,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    ),
}

# Settings that differ from the shared tiny size, by transformers model type.
ARCHITECTURES: dict[str, dict] = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16},  # soft-capped attention
    "gemma3_text": {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16},
}


def byte_tokenizer(style: str = "chatml") -> PreTrainedTokenizerFast:
    """A tokenizer of the 256 bytes plus the style's special tokens: nothing is ever unknown.

    >>> tokenizer = byte_tokenizer("llama3")
    >>> tokenizer.decode(tokenizer("naïve\\n", add_special_tokens=False).input_ids)
    'naïve\\n'
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    return _with_style(tokenizer, style)


def word_tokenizer(words: Iterable[str], style: str = "chatml") -> PreTrainedTokenizerFast:
    """A tokenizer of whole words and punctuation marks; white space is dropped, other words become `<unk>`."""
    roles = ["system", "user", "assistant", "model"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(["<unk>", *roles, *sorted(words)]))}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return _with_style(tokenizer, style)


def _with_style(tokenizer: Tokenizer, style: str) -> PreTrainedTokenizerFast:
    template, special_tokens, named = STYLES[style]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    fast.add_special_tokens({"extra_special_tokens": special_tokens})
    fast.chat_template = template
    return fast


def tiny_config(architecture: str, vocab_size: int, **changes):
    """A two-layer configuration of the given transformers model type (see `ARCHITECTURES`)."""
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "num_labels": 1,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    return AutoConfig.for_model(architecture, **(settings | ARCHITECTURES.get(architecture, {}) | changes))


def tiny_reward_model(architecture: str, vocab_size: int, seed: int = 0, **changes):
    """A random one-label sequence classifier in float32; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_config(
            tiny_config(architecture, vocab_size, **changes), dtype=torch.float32
        )


def save_tiny_model(
    directory: str | Path, architecture: str = "llama", style: str = "chatml", seed: int = 0, **changes
) -> None:
    """Write a tiny classifier and its byte tokenizer, so that any command of this repository can run on it."""
    tokenizer = byte_tokenizer(style)
    model = tiny_reward_model(architecture, len(tokenizer), seed, **changes)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def save_tiny_judge(
    directory: str | Path, architecture: str = "llama", style: str = "chatml", seed: int = 0, **changes
) -> None:
    """Write a tiny causal language model and its byte tokenizer: every recipe can start from it."""
    tokenizer = byte_tokenizer(style)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            tiny_config(architecture, len(tokenizer), **changes), dtype=torch.float32
        )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
