"""The files of a model directory that decide what the model does: those that Transformers reads.

A fingerprint of these stays the same when a report, a record or a checkpoint is written beside them.
"""

from fnmatch import fnmatchcase
from pathlib import Path

PATTERNS = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    # weights
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.bin",
    # tokenizer and chat template
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    # code that comes with the model
    "*.py",
)


def model_files(directory: str | Path) -> list[Path]:
    """Files in `directory`, sorted by name, that match one of `PATTERNS`; folders in it are not looked into.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("tokenizer.json", "run.json", "model.safetensors", "README.md", "training_args.bin"):
    ...         Path(folder, name).touch()
    ...     [file.name for file in model_files(folder)]
    ['model.safetensors', 'tokenizer.json']
    """
    files = (file for file in Path(directory).iterdir() if file.is_file())
    return sorted(file for file in files if any(fnmatchcase(file.name, pattern) for pattern in PATTERNS))
