"""The options that both commands which sample solutions share, and what they make of them."""

import argparse
import os
from pathlib import Path

from rollout_generators import load_generator
from rollout_store import CompletionStore, Sampler

from useful_code.judging.interface import Sampling
from useful_code.user_errors import UserError

WHOLE = ("num_solutions", "max_new_tokens", "rows_per_part", "max_tokens_per_batch", "max_concurrent", "max_tries")
MAY_BE_NONE = ("limit", "requests_per_minute", "timeout_seconds")


def add_sampling_arguments(parser: argparse.ArgumentParser, num_solutions: str) -> None:
    """Rows, samples and the generator; `num_solutions` is "15 (Math-Shepherd)", the default and where it is from."""
    add = parser.add_argument
    add("--split", default=None, help="Split of a hub data set.")
    add("--config_name", default=None, help="Configuration of a hub data set, for those that have several.")
    add("--output", required=True, help="JSON lines file to write.")
    add("--limit", type=int, default=None, help="Rows to use, at most.")
    number = int(num_solutions.split()[0])
    add("--num_solutions", type=int, default=number, help=f"Solutions per problem. Default: {num_solutions}.")
    add("--temperature", type=float, default=0.7, help="Of all samples. Default: 0.7.")
    add("--max_new_tokens", type=int, default=2048, help="Limit of one sampled text. Default: 2048.")
    add("--seed", type=int, default=0, help="Of the samples.")
    add("--instruction", default="", help="Added to every prompt behind a blank line; the rows stay without it.")
    add("--rows_per_part", type=int, default=64, help="Rows whose samples are asked for together. Default: 64.")
    add("--generator_name_or_path", default=None, help="Directory or hub name of a causal language model.")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="auto: bfloat16 on a GPU.")
    add("--max_tokens_per_batch", type=int, default=65536, help="Padding and new tokens counted. Default: 65536.")
    add("--chat_template_path", default=None, help="Jinja file to use instead of the model's template.")
    add("--trust_remote_code", action="store_true", help="Run code that comes with the model.")
    add("--endpoint", default=None, help="Address of an OpenAI-compatible endpoint, most end in /v1.")
    add("--model", default=None, help="Name of the model at the endpoint.")
    add("--api_key_variable", default="OPENAI_API_KEY", help="Environment variable with the key. Not the key itself.")
    add("--requests_per_minute", type=float, default=None, help="Limit, repeated requests included.")
    add("--max_concurrent", type=int, default=32, help="Requests under way at a time. Default: 32.")
    add("--timeout_seconds", type=float, default=600.0, help="Of one request. Default: 600.")
    add("--max_tries", type=int, default=6, help="Of one request, with growing pauses. Default: 6.")
    add("--extra_body", default=None, help='JSON merged into every request, such as {"top_p": 0.95}.')


def check_sampling_arguments(arguments: argparse.Namespace, num_samples: int, further: tuple[str, ...] = ()) -> None:
    """Raise UserError for options that cannot work together.

    `num_samples`: the most texts of one question. `further`: other options that are whole numbers of at least 1.
    """
    if not arguments.output.endswith(".jsonl"):
        raise UserError(f"--output {arguments.output} must be a file that ends in .jsonl: JSON lines are written")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("one process samples: start this command with python; many GPUs belong behind an endpoint")
    if (arguments.generator_name_or_path is None) == (arguments.endpoint is None):
        raise UserError("give either --generator_name_or_path (a model on this machine) or --endpoint with --model")
    if (arguments.endpoint is None) != (arguments.model is None):
        raise UserError("--endpoint and --model belong together: the address, and the name of the model there")
    for name in (*WHOLE, *further, *MAY_BE_NONE):
        value = getattr(arguments, name)
        if value is not None and not (0 if name in MAY_BE_NONE else 1) <= value < float("inf") or value == 0:
            raise UserError(f"--{name} is {value}; it must be {'at least 1' if isinstance(value, int) else 'above 0'}")
    if not 0 <= arguments.temperature < float("inf"):
        raise UserError(f"--temperature is {arguments.temperature}; it must be a number of at least 0")
    if not arguments.temperature and num_samples > 1:
        raise UserError("at --temperature 0 all samples are equal: give one above 0, or ask for 1 text of each")


def open_store(output: Path) -> CompletionStore:
    """The memory beside `output`. To be opened before anything else is written: it is the lock of this output."""
    return CompletionStore(f"{output}.completions.jsonl")


def open_sampler(arguments: argparse.Namespace, store: CompletionStore) -> Sampler:
    """The generator with its memory; shows its progress."""
    sampling = Sampling(arguments.temperature, arguments.max_new_tokens, arguments.seed)
    return Sampler(load_generator(arguments), store, sampling, progress=True)
