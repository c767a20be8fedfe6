"""Generators of solutions: a model on this machine, or one behind an OpenAI-compatible endpoint (vLLM, SGLang).

A question is a prompt and the beginning of an answer, which the generator goes on with exactly where it ends: locally
the chat template's open assistant turn is continued; an endpoint is asked to continue the final message, which vLLM and
SGLang can (a provider that cannot will begin anew, or refuse). White space at the end of the beginning is not sent:
templates of servers trim it (Llama 3, Gemma). It stays in the text, and a completion that writes it again loses it.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from useful_code.judging.endpoint import endpoint_judge
from useful_code.judging.interface import Chat, Replies, Reply, Sampling
from useful_code.judging.options import read_extra_body

CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}


class Question(NamedTuple):
    prompt: str
    prefix: str  # the answer so far; "" asks for a whole one


def accept_all(question: Question) -> None:
    """The `check` of a generator that learns only by asking what it can read."""


class Generator(NamedTuple):
    """`identity` holds everything, besides question and sampling, on which completions depend."""

    name: str
    identity: str
    # Questions, with a seed for every one of them, to (place, reply) in any order.
    generate: Callable[[Sequence[Question], Sequence[int], Sampling], Replies]
    check: Callable[[Question], None] = accept_all  # raises RowRefused for what the generator cannot read


def chat_of(question: Question) -> Chat:
    r"""The messages: the last one is the assistant's where an answer has begun, without white space at its end.

    >>> chat_of(Question("3 + 4?", "Step 1: add.\n"))[-1]
    {'role': 'assistant', 'content': 'Step 1: add.'}
    """
    begun = [{"role": "assistant", "content": question.prefix.rstrip()}] if question.prefix else []
    return [{"role": "user", "content": question.prompt}, *begun]


def behind_prefix(question: Question, reply: Reply) -> Reply:
    r"""The reply to `chat_of` as the text behind the whole prefix: its white space may be there already.

    >>> [behind_prefix(Question("?", "a.\n"), Reply(text)).text for text in ("\nb", "\n\nb", "b", " b")]
    ['b', '\nb', 'b', ' b']
    """
    trimmed = question.prefix[len(question.prefix.rstrip()) :]
    return reply._replace(text=reply.text.removeprefix(trimmed))


def endpoint_generator(url: str, model: str, extra_body: Mapping[str, Any] | None = None, **options: Any) -> Generator:
    """Ask `model` at `url`; `options` as in `endpoint_judge`. The address is not part of the identity: a server that
    was started again at another port is the same generator."""
    extra_body = dict(extra_body or {})
    whole = endpoint_judge(url, model, extra_body=extra_body, **options)
    onward = endpoint_judge(url, model, extra_body={**CONTINUE, **extra_body}, **options)

    def generate(questions: Sequence[Question], seeds: Sequence[int], sampling: Sampling) -> Replies:
        for asker, has_begun in ((whole, False), (onward, True)):
            places = [place for place, question in enumerate(questions) if bool(question.prefix) == has_begun]
            chats = [chat_of(questions[place]) for place in places]
            for number, reply in asker.generate(chats, [seeds[place] for place in places], sampling):
                yield places[number], behind_prefix(questions[places[number]], reply)

    return Generator(model, json.dumps(["endpoint", model, extra_body], sort_keys=True), generate)


def local_generator(path: str, max_new_tokens: int, **options: Any) -> Generator:
    """Load a causal language model of Transformers; `options` and errors as in `local_judge`."""
    from useful_code.judging.local import local_judge  # torch: not for an endpoint

    judge = local_judge(path, max_new_tokens=max_new_tokens, **options)

    def generate(questions: Sequence[Question], seeds: Sequence[int], sampling: Sampling) -> Replies:
        for place, reply in judge.generate([chat_of(question) for question in questions], seeds, sampling):
            yield place, behind_prefix(questions[place], reply)

    return Generator(path, judge.identity, generate, lambda question: judge.check(chat_of(question)))


def load_generator(arguments: argparse.Namespace) -> Generator:
    """The generator that the options of make_rollouts.py name."""
    if arguments.endpoint:
        names = ("api_key_variable", "requests_per_minute", "max_concurrent", "timeout_seconds", "max_tries")
        options = {name: getattr(arguments, name) for name in names}
        return endpoint_generator(arguments.endpoint, arguments.model, read_extra_body(arguments.extra_body), **options)
    names = ("dtype", "max_tokens_per_batch", "chat_template_path", "trust_remote_code")
    options = {name: getattr(arguments, name) for name in names}
    return local_generator(arguments.generator_name_or_path, arguments.max_new_tokens, **options)
