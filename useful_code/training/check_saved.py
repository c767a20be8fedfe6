"""Score token ids with a saved directory and plain Transformers: no code of this repository is imported.

`save_load.py` runs it in a process of its own after a save:
`check_saved.py DIRECTORY [--trust_remote_code] < sequences.json > rewards.json`
"""

import json
import sys

import torch
from transformers import AutoModelForSequenceClassification


@torch.inference_mode()
def main() -> None:
    trust = "--trust_remote_code" in sys.argv[2:]
    model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=1, trust_remote_code=trust)
    model = model.float().eval()  # the saved weights, without further rounding
    sequences = json.load(sys.stdin)
    rewards = [model(input_ids=torch.tensor([ids])).logits[0, 0].float().item() for ids in sequences]
    json.dump(rewards, sys.stdout)


if __name__ == "__main__":
    main()
