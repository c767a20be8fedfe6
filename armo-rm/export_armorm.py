"""One directory from a decoder, the objectives and the gate: an ArmoRM that plain Transformers loads.

    python armo-rm/export_armorm.py --gate runs/armo/gate --output runs/armo/model

    AutoModelForSequenceClassification.from_pretrained("runs/armo/model", trust_remote_code=True)  # anywhere
    python useful_code/score.py --reward_name_or_path runs/armo/model ...     # here, without running its code

Written: the decoder and all heads as model.safetensors, the config with the fields of the public checkpoint and the
names and scales of the ratings, the tokenizer with the chat template, modeling_armorm.py, a README. The directory is
read back by plain Transformers in a process of its own, and its scores must be those of the model here.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from extract_embeddings import PROBED, load_decoder, probe_row
from model_card import model_card
from option_checks import check_options
from pairs_rated import WEIGHTS
from stage_files import Stage, read_record, read_tensors

from useful_code import armorm_model
from useful_code.armorm import check_gating_tokens, load_armorm
from useful_code.armorm_model import ArmoRMForSequenceClassification
from useful_code.atomic_write import write_atomically
from useful_code.render import Template, ensure_pad_token, read_template, render
from useful_code.reward_model import load_tokenizer
from useful_code.training.save_load import FLOAT32_TOLERANCE, reloaded_numbers
from useful_code.user_errors import UserError, exit_cleanly

GATE = Stage("gate", "train_gating.py")
MODELLING_FILE = "modeling_armorm.py"
PROBE_TOLERANCE = 0.05  # of the largest value; a decoder may be embedded in bfloat16 and exported in float32
PROBES = ("Yes.", "No, for two reasons: it is late, and it rains.", "1. First\n2. Second")  # answers to be scored twice


def load_gate(directory: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The record of train_gating.py and its tensors. Raises UserError where there are none."""
    fields = ("gating_temperature", "gating_hidden_dim", "gating_n_hidden")
    names = ("objectives", "scaling", "model", "gating_tokens", "probe", "penalties", "held_out", *fields)
    record = read_record(Path(directory) / "armorm.json", names, GATE)
    return record, read_tensors(Path(directory) / "armorm.safetensors", [WEIGHTS], GATE)


def assemble(decoder: Any, record: dict[str, Any], tensors: dict[str, torch.Tensor]) -> ArmoRMForSequenceClassification:
    """The decoder with the heads on it; nothing is copied. Raises UserError where they do not fit."""
    config = decoder.config
    if config.hidden_size != tensors[WEIGHTS].shape[1]:
        raise UserError(
            f"{config.name_or_path} is not the decoder of the embeddings: it has {config.hidden_size} hidden channels, "
            f"they have {tensors[WEIGHTS].shape[1]}; give the right one (--model_name_or_path)"
        )
    objectives = record["objectives"]
    config.update(
        {
            "num_objectives": len(objectives),
            "num_labels": 1,  # the score, for pipelines
            **{name: record[name] for name in ("gating_temperature", "gating_hidden_dim", "gating_n_hidden")},
            "gating_tokens": record["gating_tokens"],
            "objectives": [one["name"] for one in objectives],
            "objective_scales": [one["scale"] for one in objectives],
            "objective_scaling": record["scaling"],
            "auto_map": {
                "AutoModelForSequenceClassification": f"{Path(MODELLING_FILE).stem}.ArmoRMForSequenceClassification"
            },
        }
    )
    with torch.device("meta"):
        model = ArmoRMForSequenceClassification(config)
    model.model = decoder
    missing, unexpected = model.load_state_dict(tensors, strict=False, assign=True)
    if unexpected or any(not name.startswith("model.") for name in missing):
        raise UserError(f"the gate has {unexpected or 'none'} too much, and lacks some of the heads; train it again")
    return model.eval()


def modelling_source(config_class: type) -> str:
    """useful_code/armorm_model.py, and the class of the config, without which Transformers 4 does not load it."""
    source = Path(armorm_model.__file__).read_text(encoding="utf-8")
    if not config_class.__module__.startswith("transformers."):
        return source  # a config that comes with code of its own
    name, model = config_class.__name__, ArmoRMForSequenceClassification.__name__
    return f"{source}\n\nfrom transformers import {name}  # noqa: E402\n\n{model}.config_class = {name}\n"


def closes_in_plain_text(template: Template, tokens: Sequence[int]) -> bool:
    """Whether an answer can hold what closes a prompt: none of these tokens is one that no text becomes."""
    tokenizer = template.tokenizer
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return special.union(tokenizer.all_special_ids).isdisjoint(tokens)


@torch.inference_mode()
def check_probe(model: ArmoRMForSequenceClassification, template: Template, kept: list[list[float]], path: str) -> None:
    """Raise UserError where the decoder's hidden states are no longer those that everything was fitted on."""
    output = model(torch.tensor([list(probe_row(template)["ids"][0])]))
    for hidden, values in zip((output.hidden_state, output.prompt_embedding), kept, strict=True):
        then, now = torch.tensor(values), hidden[0, :PROBED].float()
        if not (now - then).abs().max() <= PROBE_TOLERANCE * then.abs().max():
            raise UserError(
                f"{path} is not the decoder of the embeddings: its hidden states differ by "
                f"{(now - then).abs().max():.2g} of {then.abs().max():.2g}; give the right one (--model_name_or_path), "
                "or make embeddings, objectives and gate anew"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--gate", required=True, help="Folder that train_gating.py wrote.")
    add("--output", required=True, help="Directory to write.")
    add("--model_name_or_path", default=None, help="The decoder, where it is no longer at its old place.")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="Of the decoder; auto: as it is.")
    add("--chat_template_path", default=None, help="Jinja file that the embeddings were made with, if there was one.")
    add("--trust_remote_code", action="store_true", help="Run code that comes with the decoder.")
    arguments = parser.parse_args()
    check_options(arguments)
    record, tensors = load_gate(arguments.gate)
    path, output = arguments.model_name_or_path or record["model"]["path"], Path(arguments.output)
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} is not empty; give another --output")
    template = read_template(load_tokenizer(path, arguments.chat_template_path, arguments.trust_remote_code))
    if template.tokenizer.chat_template != record["model"]["chat_template"]:
        raise UserError(f"the chat template of {path} is not the one of the embeddings; give it (--chat_template_path)")
    dtype = arguments.dtype if arguments.dtype == "auto" else getattr(torch, arguments.dtype)
    decoder = load_decoder(path, arguments.trust_remote_code, dtype=dtype)
    pad_token_id = ensure_pad_token(template)

    model = assemble(decoder, record, tensors)
    model.config.pad_token_id = pad_token_id
    check_probe(model, template, record["probe"], path)
    model.save_pretrained(output)
    template.tokenizer.save_pretrained(output)
    write_atomically(output / MODELLING_FILE, modelling_source(type(decoder.config)))

    ours = load_armorm(str(output)).eval()
    check_gating_tokens(ours, template)
    question = {"role": "user", "content": "Shall we go out?"}
    sequences = [render(template, [question, {"role": "assistant", "content": text}]) for text in PROBES]
    with torch.inference_mode():
        scores = [ours(torch.tensor([ids])).score.item() for ids in sequences]
    reloaded = reloaded_numbers(output, sequences, trust_remote_code=True)  # it is our code that comes with it
    difference = max(abs(a - b) for a, b in zip(scores, reloaded, strict=True))
    if not difference <= FLOAT32_TOLERANCE * max(1.0, *map(abs, scores)):
        raise RuntimeError(
            f"{output} was written, but scores differ by {difference:.2g} when it is read; do not use it"
        )
    write_atomically(output / "README.md", model_card(output, record))
    if closes_in_plain_text(template, ours.gating_tokens):
        print(
            "the chat template closes a prompt in plain text: an answer that holds "
            f"{template.tokenizer.decode(ours.gating_tokens)!r} moves the place where the gate reads, and its score"
        )
    print(f"{output}: read back by plain Transformers, scores differ by {difference:.1e}")


if __name__ == "__main__":
    exit_cleanly(main)
