"""A judge behind an endpoint that speaks the chat-completions protocol of OpenAI: vLLM, SGLang, llama.cpp, a provider.

Requests are repeated after time-outs, broken connections, malformed replies and the statuses 408, 409, 429 and 5xx.
What the endpoint does not answer at all is one invalid verdict, unless it answers nothing else either. At most
`max_concurrent` requests are under way, and the next one leaves only when a reply has been taken: a kill loses no more
than those.

The API key comes from an environment variable and is never printed or stored. Needs the package `openai`.
"""

import json
import math
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from useful_code.judging.interface import Chat, Judge, Replies, Reply, Sampling
from useful_code.judging.rate_limit import RateLimit, seconds_to_wait
from useful_code.run_info import REDACTED, SECRET_VALUE
from useful_code.user_errors import UserError, first_line

REPEATED_STATUSES = (408, 409, 429)  # and from 500 on
REFUSED_STATUSES = (400, 413, 422)  # the request, perhaps this one only
NUM_TOP = 20  # alternatives per token, the most that endpoints give
LABEL_TOKENS = 12  # of a reply that is a verdict alone
NOT_AMONG_THE_TOP = -100.0  # log-probability of a label that is none of the alternatives
BROKEN_OFF = ("abort", "error")  # reasons to finish that leave half a text
PROBE: Chat = [{"role": "user", "content": "Reply with [[A]]."}]


class _Unanswered(Exception):
    """The endpoint refuses this request (`refused`), or failed every time."""

    def __init__(self, problem: str, refused: bool):
        super().__init__(problem)
        self.refused = refused


def endpoint_judge(
    url: str,
    model: str,
    api_key_variable: str = "OPENAI_API_KEY",
    requests_per_minute: float | None = None,
    max_concurrent: int = 8,
    timeout_seconds: float = 600.0,
    max_tries: int = 6,
    extra_body: Mapping[str, Any] | None = None,
) -> Judge:
    """A judge that asks `model` at `url` (ends in /v1, for most).

    `extra_body` is merged into every request; a null leaves a field out, as in {"temperature": null}. Raises UserError
    when the package is missing, and while asking when the endpoint cannot be used.
    """
    sender = _Sender(
        _client(url, api_key_variable, timeout_seconds),
        model,
        dict(extra_body or {}),
        RateLimit(requests_per_minute),
        max_tries,
        f"--endpoint {url}",
        api_key_variable,
    )

    def generate(chats: Sequence[Chat], seeds: Sequence[int], sampling: Sampling) -> Replies:
        def ask(place: int) -> Reply:
            body = {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature, "seed": seeds[place]}
            return sender.reply(chats[place], body, _written)

        return _concurrently(ask, len(chats), max_concurrent)

    def weigh(chats: Sequence[Chat], before: str, labels: Sequence[str]) -> Replies:
        def ask(place: int) -> Reply:
            body = {"max_tokens": LABEL_TOKENS, "temperature": 0, "logprobs": True, "top_logprobs": NUM_TOP}
            return sender.reply(chats[place], body, lambda choice: _weighed(choice, before, labels, sender.where))

        return _concurrently(ask, len(chats), max_concurrent)

    identity = json.dumps(["endpoint", url.rstrip("/"), model, dict(extra_body or {})], sort_keys=True)
    return Judge(model, identity, generate, weigh)


def _client(url: str, api_key_variable: str, timeout_seconds: float) -> Any:
    if not re.match(r"https?://[^/]", url):
        raise UserError(f"--endpoint {url} is no address; give one such as http://localhost:8000/v1")
    try:
        from openai import OpenAI  # optional: only an endpoint needs it
    except ImportError as error:
        raise UserError("--endpoint needs the package openai: pip install openai (or -e '.[judge]')") from error
    key = os.environ.get(api_key_variable, "").strip() or "none"  # servers of your own ask for none
    return OpenAI(base_url=url, api_key=key, max_retries=0, timeout=timeout_seconds)


class _Sender:
    """Sends one request as often as needed."""

    def __init__(self, client, model: str, extra_body, limit: RateLimit, max_tries: int, where: str, key_variable: str):
        self._client = client
        self._model = model
        self._extra_body = extra_body
        self.limit = limit
        self._max_tries = max_tries
        self.where = where
        self._key_variable = key_variable
        self._has_worked = False

    def reply(self, chat: Chat, body: dict[str, Any], read: Callable[[Any], Reply]) -> Reply:
        """The reply to a chat; one with an `error` if the endpoint answers others, but not this one."""
        try:
            reply = self._send(chat, body, read, self._max_tries)
        except _Unanswered as unanswered:
            if not (unanswered.refused and self._has_worked):
                self._probe(body)
            self._has_worked = True
            return Reply(error=str(unanswered))
        self._has_worked = True
        return reply

    def _probe(self, body: dict[str, Any]) -> None:
        """Raise UserError if the endpoint does not even answer a short question."""
        try:
            self._send(PROBE, body, lambda choice: Reply(), min(self._max_tries, 2))
        except _Unanswered as unanswered:
            if unanswered.refused:
                raise UserError(f"{self.where} refuses requests: {unanswered}") from unanswered
            raise UserError(
                f"{self.where} does not answer: {unanswered} ({self._max_tries} tries). Earlier replies are kept in "
                "the cache: run the same command again to go on"
            ) from unanswered

    def _send(self, chat: Chat, body: dict[str, Any], read: Callable[[Any], Reply], max_tries: int) -> Reply:
        import openai

        messages = [dict(message) for message in chat]
        fields = {name: value for name, value in {**body, **self._extra_body}.items() if value is not None}
        create = self._client.chat.completions.with_raw_response.create  # raw: servers differ in what they send
        problem = ""
        for attempt in range(1, max_tries + 1):
            self.limit.wait()
            status, retry_after = 0, None
            try:
                response = create(model=self._model, messages=messages, extra_body=fields)
                answer = json.loads(response.http_response.content)
                prompt_tokens, new_tokens = _usage_of(answer)
                return read(_choice_of(answer))._replace(
                    requests=attempt, prompt_tokens=prompt_tokens, new_tokens=new_tokens
                )
            except openai.APIStatusError as error:
                status, problem = error.status_code, self._without_key(error)
                if status in REFUSED_STATUSES:
                    raise _Unanswered(problem, refused=True) from error
                if status in (401, 403):
                    raise UserError(
                        f"{self.where} does not accept the API key ({status}): set the environment variable "
                        f"{self._key_variable}, or name another with --api_key_variable"
                    ) from error
                if status < 500 and status not in REPEATED_STATUSES:
                    raise UserError(
                        f"{self.where} answers {status}: {problem}. Check the address and --model"
                    ) from error
                retry_after = error.response.headers.get("retry-after")
            except (openai.OpenAIError, ValueError) as error:  # ValueError: what came is no JSON, or of another shape
                problem = self._without_key(error)
            if attempt < max_tries:
                seconds = seconds_to_wait(attempt, retry_after)
                if status == 429 or retry_after:
                    self.limit.pause(seconds)  # the endpoint is busy: nothing else is sent either
                else:
                    self.limit.sleep(seconds)
        raise _Unanswered(problem, refused=False)

    def _without_key(self, error: Exception) -> str:
        text = SECRET_VALUE.sub(REDACTED, first_line(error))[:300]
        key = os.environ.get(self._key_variable, "").strip()
        return text.replace(key, REDACTED) if key else text


def _choice_of(answer: Any) -> dict[str, Any]:
    """The first choice of a reply. Raises ValueError for anything else that a server may send."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise ValueError("the reply is no chat completion: it holds no message")
    if not isinstance(choice["message"].get("content"), str | None):
        raise ValueError("the reply is no chat completion: its content is no text")
    return choice


def _usage_of(answer: Any) -> tuple[int, int]:
    """Tokens read and written, as far as the endpoint counts them."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    counts = usage if isinstance(usage, dict) else {}
    read, written = (counts.get(name) for name in ("prompt_tokens", "completion_tokens"))
    return read if isinstance(read, int) else 0, written if isinstance(written, int) else 0


def _written(choice: dict[str, Any]) -> Reply:
    """The text of a reply. Raises ValueError where the server broke it off, so that it is asked for again."""
    reason = choice.get("finish_reason")
    if reason in BROKEN_OFF:
        raise ValueError(f"the endpoint broke its reply off (finish_reason {reason})")
    if reason == "content_filter":  # it would be so again
        return Reply(error="the endpoint's content filter ended the reply")
    text = (choice["message"].get("content") or "").encode("utf-8", "replace").decode("utf-8")  # no lone surrogates
    return Reply(text=text, finished=reason != "length")


def _weighed(choice: dict[str, Any], before: str, labels: Sequence[str], where: str) -> Reply:
    """Log-probabilities of the labels where the reply has one behind `before`; none where it has no label at all."""
    plain = _written(choice)
    if plain.error:
        return plain
    logprobs = choice.get("logprobs")
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list) or not tokens:
        raise UserError(f"{where} gives no log-probabilities; use --verdict generated")
    written = ""
    for token in tokens:
        text = _token_text(token)
        if _label_at_end(written + text, before, labels):
            weights = {label: NOT_AMONG_THE_TOP for label in labels}
            alternatives = token.get("top_logprobs")
            if not alternatives:
                raise UserError(f"{where} gives no alternatives to a token (top_logprobs); use --verdict generated")
            if not isinstance(alternatives, list):
                raise ValueError("the reply is malformed: its top_logprobs are no list")
            for alternative in alternatives:
                label = _label_at_end(written + _token_text(alternative), before, labels)
                if label:  # "A", " A" and "A]]" are different tokens; the likeliest stands for the label
                    weights[label] = max(weights[label], _log_probability(alternative))
            return plain._replace(log_probabilities=list(weights.values()))
        written += text
    return plain


def _token_text(token: Any) -> str:
    text = token.get("token") if isinstance(token, dict) else None
    if not isinstance(text, str):
        raise ValueError("the reply is malformed: a token of its log-probabilities has no text")
    return text


def _log_probability(token: dict[str, Any]) -> float:
    number = token.get("logprob")
    if isinstance(number, bool) or not isinstance(number, int | float) or not number < math.inf:  # NaN is neither
        raise ValueError("the reply is malformed: a log-probability is no number")
    return number


def _label_at_end(text: str, before: str, labels: Sequence[str]) -> str | None:
    """The label that begins a text behind its last `before`.

    >>> [_label_at_end(text, "[[", "ABC") for text in ("[[A", "x [[ B]]**", "[[", "[[Answer", "A")]
    ['A', 'B', None, None, None]
    """
    word = re.match(r"\s*([^\W_]+)", text.rpartition(before)[2]) if before in text else None
    return word[1] if word and word[1] in tuple(labels) else None


def _concurrently(ask: Callable[[int], Reply], number: int, max_concurrent: int) -> Replies:
    """Yield (place, reply) as replies come; at most `max_concurrent` are asked for and not yet taken.

    The first error is raised when the requests under way have ended, so that their replies are not lost. After Ctrl-C
    nothing is waited for: the threads end with the process.
    """
    ended: SimpleQueue[tuple[int, Reply | BaseException]] = SimpleQueue()

    def work(place: int) -> None:
        try:
            ended.put((place, ask(place)))
        except BaseException as error:  # raised again where it is taken
            ended.put((place, error))

    places = iter(range(number))
    under_way = 0
    failed: BaseException | None = None
    while True:
        while failed is None and under_way < max_concurrent and (place := next(places, None)) is not None:
            threading.Thread(target=work, args=(place,), daemon=True).start()
            under_way += 1
        if not under_way:
            break
        place, reply = ended.get()
        under_way -= 1
        if isinstance(reply, BaseException):
            failed = failed or reply
        else:
            yield place, reply
    if failed is not None:
        raise failed
