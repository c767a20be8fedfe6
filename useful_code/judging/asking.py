"""A judge with a memory: what was asked before is read from the cache, what is new is stored the moment it is known.

An invalid verdict is asked for once more with another seed, and above temperature 0: at 0 a judge would only repeat
itself. After that it counts as invalid.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tqdm import tqdm

from useful_code.judging.cache import ReplyCache, key_of
from useful_code.judging.interface import Chat, Judge, Replies, Reply, Sampling
from useful_code.judging.verdicts import Verdict

RETRY_TEMPERATURE = 0.7  # of the second try of a judge that takes the likeliest token


@dataclass
class Cost:
    """What a run took; tokens are those of new replies, as far as the judge counts them."""

    from_cache: int = 0  # replies
    new_replies: int = 0
    requests: int = 0  # more than the replies where some had to be repeated
    prompt_tokens: int = 0
    new_tokens: int = 0
    second_tries: int = 0  # of invalid verdicts, cached ones included
    refused: int = 0  # requests that the endpoint does not accept

    def text(self) -> str:
        """One line for a person.

        >>> Cost(from_cache=2, new_replies=10, requests=11, prompt_tokens=5000, new_tokens=300).text()
        'cost: 10 new replies in 11 requests, 2 from the cache; 5,000 tokens read, 300 written; 0 second tries'
        """
        line = f"cost: {self.new_replies:,} new replies in {self.requests:,} requests, {self.from_cache:,} from the "
        line += f"cache; {self.prompt_tokens:,} tokens read, {self.new_tokens:,} written; "
        line += f"{self.second_tries:,} second tries"
        return line + (f"; {self.refused:,} requests refused by the endpoint" if self.refused else "")


class Voted(NamedTuple):
    """What a judge wrote to one chat: a text and a verdict per sample, in order."""

    texts: list[str]
    verdicts: list[Verdict]


class Asker:
    """A judge, its cache, and what asking has cost so far."""

    def __init__(self, judge: Judge, cache: ReplyCache, progress: bool = False):
        self.judge = judge
        self.cache = cache
        self.cost = Cost()
        self._progress = progress

    def vote(
        self,
        chats: Sequence[Chat],
        parse: Callable[[str, bool], Verdict],
        sampling: Sampling,
        num_samples: int = 1,
    ) -> list[Voted]:
        """`num_samples` texts per chat with their verdicts; `parse` takes a text and whether it was finished."""
        questions = [(chat, sample) for chat in chats for sample in range(num_samples)]
        replies = self._generate(questions, sampling)
        verdicts = [_verdict(reply, parse) for reply in replies]
        failed = [i for i, verdict in enumerate(verdicts) if verdict.problem and not replies[i].error]
        if failed:
            # A number that no first try has, whatever the number of samples.
            again = [(questions[i][0], -1 - questions[i][1]) for i in failed]
            warmer = sampling._replace(temperature=sampling.temperature or RETRY_TEMPERATURE)
            self.cost.second_tries += len(failed)
            for i, reply in zip(failed, self._generate(again, warmer), strict=True):
                replies[i], verdicts[i] = reply, _verdict(reply, parse)
        return [
            Voted(
                [reply.text for reply in replies[start : start + num_samples]],
                verdicts[start : start + num_samples],
            )
            for start in range(0, len(questions), num_samples)
        ]

    def weigh(self, chats: Sequence[Chat], before: str, labels: Sequence[str]) -> list[Reply]:
        """Replies with the log-probabilities of the labels behind the text `before`, where the judge gives them."""
        keys = [key_of(self.judge.identity, "labels", chat, before, list(labels)) for chat in chats]
        return self._ask(keys, lambda places: self.judge.weigh([chats[i] for i in places], before, labels))

    def _generate(self, questions: Sequence[tuple[Chat, int]], sampling: Sampling) -> list[Reply]:
        settings = sampling._asdict()
        keys = [key_of(self.judge.identity, "text", chat, settings, sample) for chat, sample in questions]
        seeds = [_seed(sampling.seed, chat, sample) for chat, sample in questions]

        def call(places: list[int]) -> Replies:
            return self.judge.generate([questions[i][0] for i in places], [seeds[i] for i in places], sampling)

        return self._ask(keys, call)

    def _ask(self, keys: Sequence[str], call: Callable[[list[int]], Replies]) -> list[Reply]:
        """The reply to every key: from the cache, or from `call`, which is given the places that are missing."""
        known = self.cache.find(dict.fromkeys(keys))
        self.cost.from_cache += sum(key in known for key in keys)
        first_place: dict[str, int] = {}
        for place, key in enumerate(keys):
            if key not in known:
                first_place.setdefault(key, place)
        missing = list(first_place.values())
        with tqdm(total=len(missing), unit="reply", desc="judging", disable=not (self._progress and missing)) as bar:
            for number, reply in call(missing) if missing else ():
                key = keys[missing[number]]
                known[key] = reply if reply.error else self.cache.keep(key, reply)
                self.cost.new_replies += not reply.error
                self.cost.refused += bool(reply.error)
                self.cost.requests += reply.requests
                self.cost.prompt_tokens += reply.prompt_tokens
                self.cost.new_tokens += reply.new_tokens
                bar.update()
        return [known[key] for key in keys]


def _verdict(reply: Reply, parse: Callable[[str, bool], Verdict]) -> Verdict:
    return Verdict(None, "request_refused") if reply.error else parse(reply.text, reply.finished)


def _seed(seed: int, chat: Chat, sample: int) -> int:
    """31 bits that no other question shares, so that a reply does not depend on what else is asked."""
    content = json.dumps([seed, list(chat), sample], sort_keys=True).encode("ascii")
    return int.from_bytes(hashlib.blake2b(content, digest_size=4).digest(), "big") >> 1
