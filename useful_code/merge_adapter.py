"""Merge a LoRA adapter, head included, into its base and save a plain Transformers model; recipes end with it.

A sequence or token classifier or a causal language model, as the adapter's own configuration says.

    python useful_code/merge_adapter.py --base google/gemma-2b-it --adapter runs/x/adapter --output runs/x

An adapter that was trained on a quantized base (QLoRA) fits what the quantized weights stand for, not the originals:
where `quantization.json` stands beside it, the base is quantized as in training, turned back into float32, and merged.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, TaskType
from peft.utils.integrations import dequantize_module_weight
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from useful_code.user_errors import UserError, exit_cleanly

QUANTIZATION_FILE = "quantization.json"  # BitsAndBytesConfig of the training
CONFIG_FILE = "config_values.json"  # what the config of the trained model says that its base's does not
KEPT_IN_CONFIG = ("pair_labels", "reward_of", "step_separator")
# RuntimeError: shapes that do not fit; TypeError: a quantization that is none; ImportError: no bitsandbytes.
CANNOT_BE_MERGED = (OSError, ValueError, TypeError, RuntimeError, ImportError, SafetensorError)


def dequantize(model: PreTrainedModel) -> None:
    """Replace every layer that bitsandbytes quantized by a float32 layer of the same values, in place."""
    for name, layer in list(model.named_modules()):
        if type(layer).__name__ in ("Linear4bit", "Linear8bitLt"):
            weight = dequantize_module_weight(layer).detach().float()
            plain = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None)
            plain.weight = nn.Parameter(weight)
            if layer.bias is not None:
                plain.bias = nn.Parameter(layer.bias.detach().float())
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, plain)
    del model.config.quantization_config  # what is saved is a plain float32 model
    model.hf_quantizer = None  # type: ignore[assignment]
    model.is_quantized = False  # type: ignore[assignment]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="The model that the adapter was trained on.")
    parser.add_argument("--adapter", required=True, help="Directory of the adapter.")
    parser.add_argument("--output", required=True, help="Directory to write.")
    parser.add_argument("--revision", default=None, help="Revision of a base model on a hub.")
    parser.add_argument("--trust_remote_code", action="store_true", help="Run code that comes with the base model.")
    arguments = parser.parse_args()
    settings: dict[str, Any] = {}
    try:
        if (file := Path(arguments.adapter) / QUANTIZATION_FILE).exists():
            quantization = json.loads(file.read_text(encoding="utf-8"))
            settings["quantization_config"] = BitsAndBytesConfig.from_dict(quantization)
        task_type = PeftConfig.from_pretrained(arguments.adapter).task_type
        loader: Any = AutoModelForCausalLM
        if task_type == TaskType.SEQ_CLS:
            loader, settings["num_labels"] = AutoModelForSequenceClassification, 1
        elif task_type == TaskType.TOKEN_CLS:
            loader = AutoModelForTokenClassification
            settings |= {"id2label": {0: "-", 1: "+"}, "label2id": {"-": 0, "+": 1}}  # as in step_model.py
        base = loader.from_pretrained(
            arguments.base,
            dtype=torch.float32,
            revision=arguments.revision,
            trust_remote_code=arguments.trust_remote_code,
            **settings,
        )
        if "quantization_config" in settings:
            dequantize(base)
        merged = PeftModel.from_pretrained(base, arguments.adapter).merge_and_unload()
        tokenizer = AutoTokenizer.from_pretrained(arguments.adapter)
        if (file := Path(arguments.adapter) / CONFIG_FILE).exists():
            for key, value in json.loads(file.read_text(encoding="utf-8")).items():
                if key in KEPT_IN_CONFIG and value is not None:
                    setattr(merged.config, key, value)
    except CANNOT_BE_MERGED as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{arguments.adapter} cannot be merged into {arguments.base}: {reason}") from error
    merged.config.pad_token_id = tokenizer.pad_token_id
    merged.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)


if __name__ == "__main__":
    exit_cleanly(main)
