"""The README of an exported ArmoRM directory."""

from pathlib import Path
from typing import Any


def model_card(directory: Path, record: dict[str, Any]) -> str:
    """`record`: armorm.json of train_gating.py."""
    held_out = record["held_out"]["gate"]
    low, high = held_out["interval"]
    penalties = record["penalties"] or [None] * len(record["objectives"])
    lines = [
        f"| {one['name']} | {one['scale'][0]:g} to {one['scale'][1]:g} | {_shown(one['pearson'])} | "
        f"{'-' if penalty is None else format(penalty['size'], 'g')} |"
        for one, penalty in zip(record["objectives"], penalties, strict=True)
    ]
    return f"""---
library_name: transformers
pipeline_tag: text-classification
base_model: {record["model"]["path"]}
---
# ArmoRM on {Path(record["model"]["path"]).name}

{len(lines)} ratings of an answer, weighed by a gate that sees the prompt alone (arXiv 2406.12845).
Of {held_out["pairs"]:,} held-out pairs the score is right on {held_out["accuracy"]:.3f} ({low:.3f}-{high:.3f}), and
"the longer answer" on {held_out["length"]["longer_wins_accuracy"]:.3f}.

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("{directory}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{directory}")
chat = [{{"role": "user", "content": "..."}}, {{"role": "assistant", "content": "..."}}]
inputs = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
with torch.no_grad():
    output = model(**inputs)
output.score  # (1,): only differences for one prompt mean anything
output.rewards  # (1, {len(lines)}): ratings in [0, 1], see `objectives`, `objective_scales` in the config
output.gating_output  # (1, {len(lines)}): what each counts for this prompt
```

| rating | scale | Pearson, held out | penalty on verbosity |
|---|---|---|---|
{chr(10).join(lines)}
"""


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
