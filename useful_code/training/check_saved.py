"""Score token ids with a saved directory and plain Transformers: no code of this repository is imported.

`save_load.py` runs it in a process of its own after a save:
`check_saved.py DIRECTORY [--trust_remote_code] [--token_ids 65 66] [--tags] [--log_odds] < sequences.json`
It prints the reward of every sequence or, with `--token_ids`, the logits of these tokens behind it, or, with `--tags`,
those of both labels of a token classifier at its last token: a flat list. `--log_odds`: of both the second less the
first.
"""

import argparse
import json
import sys

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--trust_remote_code", action="store_true")
    parser.add_argument("--token_ids", type=int, nargs="+")
    parser.add_argument("--tags", action="store_true")
    parser.add_argument("--log_odds", action="store_true")
    arguments = parser.parse_args()
    settings: dict
    if arguments.token_ids:
        load, settings, columns = AutoModelForCausalLM.from_pretrained, {}, arguments.token_ids
    elif arguments.tags:
        load, settings, columns = AutoModelForTokenClassification.from_pretrained, {}, [0, 1]
    else:
        load, settings, columns = AutoModelForSequenceClassification.from_pretrained, {"num_labels": 1}, [0]
    model = load(arguments.directory, trust_remote_code=arguments.trust_remote_code, **settings)
    model = model.float().eval()  # the saved weights, without further rounding
    numbers = []
    for ids in json.load(sys.stdin):
        logits = model(input_ids=torch.tensor([ids])).logits[0]  # () or (1,) a reward, or (T, V) of the words, (T, 2)
        chosen = (logits[-1] if arguments.token_ids or arguments.tags else logits.reshape(-1))[columns].float()
        numbers += (chosen[1:] - chosen[:1] if arguments.log_odds else chosen).tolist()
    json.dump(numbers, sys.stdout)


if __name__ == "__main__":
    main()
