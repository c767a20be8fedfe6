"""The options that both commands of the judge share, and what they make of them."""

import argparse
import json
import os
from typing import Any

from useful_code.judging.asking import Asker
from useful_code.judging.cache import ReplyCache
from useful_code.judging.endpoint import endpoint_judge
from useful_code.judging.interface import Judge, Sampling
from useful_code.judging.items import Item
from useful_code.judging.judge_items import Settings, chats_of
from useful_code.judging.prompts import PROMPT_VERSION
from useful_code.judging.rules import RULES
from useful_code.user_errors import UserError

CACHE = "runs/judge_cache.sqlite"
MAX_NEW_TOKENS = 1024


def add_judge_arguments(parser: argparse.ArgumentParser, tasks: tuple[str, ...]) -> None:
    """The judge, the question, and how it is asked."""
    which = parser.add_argument_group("the judge: --judge, or --endpoint with --model")
    which.add_argument("--judge", default=None, help="Directory or hub name of a causal language model.")
    which.add_argument("--endpoint", default=None, help="Address of an OpenAI-compatible endpoint, most end in /v1.")
    which.add_argument("--model", default=None, help="Name of the model at the endpoint.")

    asked = parser.add_argument_group("the question")
    asked.add_argument("--task", choices=tasks, default="pairwise", help="What is asked. Default: pairwise.")
    asked.add_argument(
        "--verdict",
        choices=["generated", "logits"],
        default="generated",
        help="Read a written verdict, or the probabilities of the labels in its place.",
    )
    asked.add_argument("--rule", choices=RULES, default="average", help="How both orders of a pair become one verdict.")
    asked.add_argument("--no_ties", action="store_true", help="A pair may not be called equally good.")
    asked.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token. Default: 0.")
    asked.add_argument("--num_samples", type=int, default=1, help="Texts per question; their verdicts are votes.")
    asked.add_argument(
        "--max_new_tokens", type=int, default=MAX_NEW_TOKENS, help=f"Limit of a text. Default: {MAX_NEW_TOKENS}."
    )
    asked.add_argument("--seed", type=int, default=0, help="Of the samples.")
    asked.add_argument(
        "--cache", default=CACHE, help=f"SQLite file of all replies, to be shared by runs. Default: {CACHE}."
    )

    remote = parser.add_argument_group("an endpoint")
    remote.add_argument(
        "--api_key_variable", default="OPENAI_API_KEY", help="Environment variable with the key. Not the key itself."
    )
    remote.add_argument("--requests_per_minute", type=float, default=None, help="Limit, repeated requests included.")
    remote.add_argument("--max_concurrent", type=int, default=8, help="Requests under way at a time. Default: 8.")
    remote.add_argument("--timeout_seconds", type=float, default=600.0, help="Of one request. Default: 600.")
    remote.add_argument("--max_tries", type=int, default=6, help="Of one request, with growing pauses. Default: 6.")
    remote.add_argument(
        "--extra_body", default=None, help='JSON merged into every request; null leaves out: {"temperature": null}.'
    )

    local = parser.add_argument_group("a model on this machine")
    local.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="Type of the weights; auto is bfloat16 on a GPU, float32 on a CPU.",
    )
    local.add_argument(
        "--max_tokens_per_batch", type=int, default=16384, help="Tokens of one batch, padding and new ones counted."
    )
    local.add_argument("--chat_template_path", default=None, help="Jinja file to use instead of the model's template.")
    local.add_argument("--trust_remote_code", action="store_true", help="Run code that comes with the model.")


def settings_of(arguments: argparse.Namespace, num_orders: int = 1) -> Settings:
    """How items are judged. Raises UserError for options that cannot work together."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("one process judges: start this command with python, not with a launcher of several processes")
    if (arguments.judge is None) == (arguments.endpoint is None):
        raise UserError("give either --judge (a model on this machine) or --endpoint with --model")
    if (arguments.endpoint is None) != (arguments.model is None):
        raise UserError("--endpoint and --model belong together: the address, and the name of the model there")
    lowest = {"num_samples": 1, "max_new_tokens": 1, "max_concurrent": 1, "max_tries": 1, "max_tokens_per_batch": 1}
    for name, value in lowest.items():
        if getattr(arguments, name) < value:
            raise UserError(f"--{name} is {getattr(arguments, name)}; it must be at least {value}")
    if not 0 <= arguments.temperature < float("inf"):
        raise UserError(f"--temperature is {arguments.temperature}; it must be a number of at least 0")
    for name in ("requests_per_minute", "timeout_seconds"):
        number = getattr(arguments, name)
        if number is not None and not 0 < number < float("inf"):
            raise UserError(f"--{name} is {number}; it must be above 0")
    if arguments.verdict == "logits" and (arguments.num_samples > 1 or arguments.temperature):
        raise UserError("--verdict logits reads probabilities: leave --num_samples and --temperature as they are")
    if arguments.num_samples > 1 and not arguments.temperature:
        raise UserError("--num_samples asks for different texts: give a --temperature above 0, for example 0.7")
    return Settings(
        task=arguments.task,
        verdict=arguments.verdict,
        rule=arguments.rule,
        allow_tie=not arguments.no_ties,
        num_orders=num_orders,
        num_samples=arguments.num_samples,
        sampling=Sampling(arguments.temperature, arguments.max_new_tokens, arguments.seed),
    )


def load_judge(arguments: argparse.Namespace) -> Judge:
    """The judge that the arguments name."""
    if arguments.endpoint is not None:
        return endpoint_judge(
            arguments.endpoint,
            arguments.model,
            arguments.api_key_variable,
            arguments.requests_per_minute,
            arguments.max_concurrent,
            arguments.timeout_seconds,
            arguments.max_tries,
            read_extra_body(arguments.extra_body),
        )
    from useful_code.judging.local import local_judge  # torch: not for an endpoint

    return local_judge(
        arguments.judge,
        arguments.dtype,
        arguments.max_tokens_per_batch,
        arguments.max_new_tokens if arguments.verdict == "generated" else 0,
        arguments.chat_template_path,
        arguments.trust_remote_code,
    )


def open_asker(arguments: argparse.Namespace, judge: Judge) -> Asker:
    """The judge with its cache; shows its progress."""
    return Asker(judge, ReplyCache(arguments.cache), progress=True)


def check_chats(judge: Judge, item: Item, settings: Settings) -> None:
    """Raise RowRefused if the judge cannot read what it would be asked about an item."""
    for _, chat in chats_of(item, settings):
        judge.check(chat)


def description(judge: Judge, settings: Settings) -> dict[str, Any]:
    """What a reader of the verdicts must know, ready for JSON."""
    return {
        "judge": judge.name,
        "task": settings.task,
        "verdict": settings.verdict,
        "rule": settings.rule if settings.task == "pairwise" else None,
        "ties_allowed": settings.allow_tie if settings.task == "pairwise" else None,
        "num_samples": settings.num_samples,
        "temperature": settings.sampling.temperature,
        "seed": settings.sampling.seed,
        "prompt_version": PROMPT_VERSION,
    }


def read_extra_body(text: str | None) -> dict[str, Any]:
    """The option --extra_body. Raises UserError for what is no JSON object."""
    try:
        body = json.loads(text) if text else {}
    except ValueError as error:
        raise UserError(f"--extra_body is no JSON ({error}); write for example '{{\"top_p\": 0.9}}'") from error
    if not isinstance(body, dict):
        raise UserError("--extra_body must be a JSON object, for example '{\"top_p\": 0.9}'")
    return body
