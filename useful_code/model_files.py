"""The files of a model directory that decide what the model does: those that Transformers reads.

A fingerprint of these stays the same when a report, a record or a checkpoint is written beside them.
"""

import hashlib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

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


def model_fingerprint(name: str, model: Any, *more: Any) -> str:
    """Changes when other weights would be used, or with `more`: name, size and date of a directory's `model_files`, or
    the commit of a hub model; and the type of the loaded `model`'s weights."""
    directory = Path(name)
    if directory.is_dir():
        name = str(directory.resolve())
        states = [(file.name, file.stat()) for file in model_files(directory)]
        facts: Any = [(file, state.st_size, state.st_mtime_ns) for file, state in states]
    else:
        facts = getattr(model.config, "_commit_hash", None)
    return hashlib.blake2b(repr((name, facts, str(model.dtype), *more)).encode(), digest_size=16).hexdigest()
