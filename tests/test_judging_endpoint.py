"""The judge command against an endpoint of the chat-completions protocol that counts, fails and is slow."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_endpoint import Endpoint, Hold, shown

from useful_code import judge as judge_command
from useful_code.judging import endpoint as endpoint_module
from useful_code.judging.asking import Asker
from useful_code.judging.cache import ReplyCache
from useful_code.judging.endpoint import endpoint_judge
from useful_code.judging.interface import Reply, Sampling
from useful_code.judging.rate_limit import RateLimit, seconds_to_wait
from useful_code.judging.verdicts import Verdict
from useful_code.user_errors import UserError, exit_cleanly

ROOT = Path(judge_command.__file__).parents[1]
NOW = {"retry-after": "0"}  # so that no test waits
KEY = "sk-0123456789abcdef0123456789"
NUM_ROWS = 6


def right(question: str) -> str:
    """An oracle: the response that holds the word is the better one."""
    place = next((i for i, text in enumerate(shown(question)) if "right" in text), 0)
    return f"Reasons.\n[[{'ABCD'[place]}]]"


def write_rows(folder: Path, number: int = NUM_ROWS) -> Path:
    rows = [{"prompt": f"{i}?", "responses": [f"wrong {i}", f"right {i}"], "best": 1} for i in range(number)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def command_line(folder: Path, url: str, *flags: str) -> list[str]:
    words = ["--input", folder / "rows.jsonl", "--output", folder / "judged.jsonl", "--cache", folder / "cache.sqlite"]
    words += ["--endpoint", url, "--model", "tiny", *flags]
    return [sys.executable, str(ROOT / "useful_code" / "judge.py"), *map(str, words)]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return kept | {"OPENAI_API_KEY": KEY, "PYTHONPATH": str(ROOT)}


def run(folder: Path, url: str, *flags: str) -> subprocess.CompletedProcess:
    """The user's own command, in a process of its own."""
    return subprocess.run(
        command_line(folder, url, *flags), env=environment(), capture_output=True, text=True, timeout=120
    )


def run_here(monkeypatch, folder: Path, url: str, *flags: str) -> None:
    """The same inside this process, which saves the start-up."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(sys, "argv", command_line(folder, url, *flags)[1:])
    exit_cleanly(judge_command.main)


def judged_rows(folder: Path) -> list[dict]:
    return [json.loads(line)["judged"] for line in (folder / "judged.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_command_with_every_fault_of_an_endpoint(tmp_path):
    """Busy, broken, malformed in three ways and slow: every question gets its answer, one at a time."""
    write_rows(tmp_path)
    faults = [
        (429, {"retry-after": "1"}, '{"error": {"message": "slow down"}}'),
        (500, NOW, "{}"),
        (503, {**NOW, "content-type": "text/html"}, "<h1>busy</h1>"),
        (200, {}, "{"),
        None,  # an answer: pauses grow with every try of one question
        (200, {}, '{"choices": []}'),
        (200, {"content-type": "text/plain"}, "hello"),
        None,
        30,  # seconds, longer than the limit
    ]
    num_faults = sum(fault is not None for fault in faults)
    with Endpoint(right, faults) as endpoint:
        flags = ("--timeout_seconds", "4", "--max_concurrent", "1", "--max_tries", "9", "--rule", "conservative")
        finished = run(tmp_path, endpoint.url, *flags, "--to_pairs", tmp_path / "pairs.jsonl")
        assert finished.returncode == 0, finished.stderr[-3000:]
        assert len(endpoint.requests) == 2 * NUM_ROWS + num_faults
        assert set(endpoint.answered.values()) == {1} and len(endpoint.answered) == 2 * NUM_ROWS
        assert endpoint.most_at_a_time <= 2  # the one that is waited for no longer, and the next
        assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"
        body = endpoint.requests[-1]
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0, 1024)
    assert [judged["winners"] for judged in judged_rows(tmp_path)] == [[1]] * NUM_ROWS
    for text in (
        "cost: 12 new replies in 19 requests, 0 from the cache; 1,200 tokens read, 84 written; 0 second tries",
        "6 rows read, 6 kept",
        "judged 6 items: 6 decided, 0 ties, 0 invalid",
        "accuracy 1.000",
        "consistency 1.000",
        "first_position_share 0.500",
        "6 pairs written to",
    ):
        assert text in finished.stdout
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert [pair["chosen"][-1]["content"] for pair in pairs] == [f"right {i}" for i in range(NUM_ROWS)]
    assert {(pair["chosen_score"], pair["rejected_score"], pair["judge"]) for pair in pairs} == {(1.0, 0.0, "tiny")}
    everything = finished.stdout + finished.stderr + (tmp_path / "judged.jsonl").read_text()
    assert KEY not in everything and KEY.encode() not in (tmp_path / "cache.sqlite").read_bytes()


def test_check_7_killed_in_the_middle_it_goes_on_without_asking_twice(tmp_path):
    """kill -9 while the sixth request is under way: five answers are kept, seven are still to come."""
    write_rows(tmp_path)
    hold = Hold()
    with Endpoint(right, [None] * 5 + [hold]) as endpoint:
        process = subprocess.Popen(
            command_line(tmp_path, endpoint.url, "--max_concurrent", "1"),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert hold.reached.wait(timeout=120)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        hold.release.set()
        assert not (tmp_path / "judged.jsonl").exists() and len(endpoint.answered) == 5
        finished = run(tmp_path, endpoint.url, "--max_concurrent", "3")
        assert finished.returncode == 0, finished.stderr[-3000:]
        assert "cost: 7 new replies in 7 requests, 5 from the cache" in finished.stdout
        assert len(endpoint.answered) == 12 and set(endpoint.answered.values()) == {1}
        assert 1 <= endpoint.most_at_a_time <= 3
    assert [judged["winners"] for judged in judged_rows(tmp_path)] == [[1]] * NUM_ROWS


def test_ctrl_c_ends_at_once_and_keeps_what_was_answered(tmp_path):
    """Also while a request is under way that is never answered."""
    write_rows(tmp_path)
    hold = Hold()
    with Endpoint(right, [None] * 3 + [hold]) as endpoint:
        process = subprocess.Popen(
            command_line(tmp_path, endpoint.url, "--max_concurrent", "1"),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert hold.reached.wait(timeout=120)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=120)  # the request itself would wait for 600 seconds
        hold.release.set()
    assert process.returncode == 130 and "Traceback" not in errors
    assert "cost: 3 new replies" in printed and not (tmp_path / "judged.jsonl").exists()


def test_a_second_run_asks_nothing_and_another_question_is_another(tmp_path, monkeypatch, capsys):
    write_rows(tmp_path)
    with Endpoint(right) as endpoint:
        for flags, requests in (
            ((), 12),
            ((), 12),
            (("--rule", "odin"), 12),  # the same texts
            (("--max_new_tokens", "99"), 24),
            (("--no_ties",), 36),
            (("--model", "other"), 48),
            (("--temperature", "0.5", "--num_samples", "2"), 72),
            (("--temperature", "0.5", "--num_samples", "3"), 84),  # two of the three are there
            (("--extra_body", '{"max_tokens": null, "top_p": 0.9}'), 96),
        ):
            run_here(monkeypatch, tmp_path, endpoint.url, *flags)
            assert len(endpoint.requests) == requests, flags
        assert "max_tokens" not in endpoint.requests[-1] and endpoint.requests[-1]["top_p"] == 0.9
    assert "0 new replies in 0 requests, 12 from the cache" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ((401, {}, json.dumps({"error": {"message": f"bad key {KEY}"}})), "OPENAI_API_KEY"),
        ((404, {}, '{"error": {"message": "no such model"}}'), "answers 404"),
        ((400, {}, json.dumps({"error": {"message": f"temperature? {KEY}"}})), "refuses requests"),
        ((500, NOW, "{}"), "does not answer"),
        ((200, {}, "{"), "does not answer"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, capsys, fault, message):
    write_rows(tmp_path)
    monkeypatch.setattr(endpoint_module, "seconds_to_wait", lambda attempt, retry_after: 0.0)
    with Endpoint(right, [fault] * 200) as endpoint, pytest.raises(SystemExit) as stopped:
        run_here(monkeypatch, tmp_path, endpoint.url, "--max_tries", "2", "--max_concurrent", "2")
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    last_line = captured.err.strip().splitlines()[-1]
    assert last_line.startswith("error: ") and message in last_line and endpoint.url in last_line
    assert KEY not in captured.err + captured.out
    assert not (tmp_path / "judged.jsonl").exists()


def test_nobody_listens(tmp_path, monkeypatch, capsys):
    write_rows(tmp_path)
    monkeypatch.setattr(endpoint_module, "seconds_to_wait", lambda attempt, retry_after: 0.0)
    with Endpoint(right) as endpoint:
        pass
    with pytest.raises(SystemExit):
        run_here(monkeypatch, tmp_path, endpoint.url, "--max_tries", "2")
    assert "does not answer: Connection error" in capsys.readouterr().err


def test_one_question_that_is_refused_is_one_invalid_verdict(tmp_path, monkeypatch, capsys):
    """Too long for the model, perhaps: the others are judged, and a later run asks that one again."""
    write_rows(tmp_path)
    with Endpoint(right) as endpoint:
        endpoint.faults = [(400, {}, '{"error": {"message": "too long"}}')]  # the first one: is it the endpoint?
        run_here(monkeypatch, tmp_path, endpoint.url, "--max_concurrent", "1")
        assert len(endpoint.requests) == 12 + 1  # a short question, to see
        statuses = [judged["status"] for judged in judged_rows(tmp_path)]
        assert statuses == ["invalid"] + ["decided"] * 5
        assert judged_rows(tmp_path)[0]["orders"][0]["problems"] == ["request_refused"]
        assert "1 requests refused" in capsys.readouterr().out
        run_here(monkeypatch, tmp_path, endpoint.url)
        assert len(endpoint.requests) == 14 and {judged["status"] for judged in judged_rows(tmp_path)} == {"decided"}


def test_probabilities_from_the_alternatives_of_an_endpoint(tmp_path, monkeypatch, capsys):
    """P(first place) = 0.6 / (0.6 + 0.2) in both orders: no label but these two is among the alternatives."""
    write_rows(tmp_path, 1)
    top = {"A": -0.5108256, " B": -1.6094379, "The": -3.0, "A]]": -9.0}
    with Endpoint(lambda question: "[[A]]", top_logprobs=top) as endpoint:
        run_here(monkeypatch, tmp_path, endpoint.url, "--verdict", "logits")
        assert endpoint.requests[0]["logprobs"] is True and endpoint.requests[0]["top_logprobs"] == 20
    (judged,) = judged_rows(tmp_path)
    assert judged["probability"] == pytest.approx(0.5)
    assert judged["orders"][0]["shares"] == pytest.approx([0.75, 0.25])
    assert judged["orders"][0]["texts"] == ["[[A]]"]
    with Endpoint(lambda question: "I would rather not.", top_logprobs=top) as endpoint:
        run_here(monkeypatch, tmp_path, endpoint.url, "--verdict", "logits")
    (judged,) = judged_rows(tmp_path)
    assert judged["status"] == "invalid" and judged["orders"][0]["problems"] == ["no_marker"]
    with Endpoint(lambda question: "[[A]]") as endpoint, pytest.raises(SystemExit):
        run_here(monkeypatch, tmp_path, endpoint.url, "--verdict", "logits")
    assert "gives no log-probabilities; use --verdict generated" in capsys.readouterr().err


GOOD = {"token": "A", "logprob": -0.1}


@pytest.mark.parametrize(
    "tokens",
    [
        [{"token": "[["}, {"token": "A", "top_logprobs": [{"token": "A", "logprob": None}]}],
        [{"token": "[["}, {"token": "A", "top_logprobs": [{"token": "A", "logprob": "-0.1"}]}],
        [{"token": "[["}, {"token": "A", "top_logprobs": [{"token": "A", "logprob": float("nan")}]}],
        [{"token": "[["}, {"token": "A", "top_logprobs": [{"token": "A", "logprob": True}]}],
        [{"token": "[["}, {"token": "A", "top_logprobs": [{"token": "A"}]}],
        [{"token": "[["}, {"token": "A", "top_logprobs": [{"logprob": -0.1}]}],
        [{"token": "[["}, {"token": "A", "top_logprobs": [None]}],
        [{"token": "[["}, {"token": "A", "top_logprobs": {"A": -0.1}}],
        [{"token": "[["}, {"logprob": -0.1, "top_logprobs": [GOOD]}],
        [{"token": None}, {"token": "A", "top_logprobs": [GOOD]}],
        ["[[", "A"],
    ],
)
def test_malformed_log_probabilities_are_asked_for_again(monkeypatch, tokens):
    """As any other malformed reply; after every try they are one invalid verdict and no traceback."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(endpoint_module, "seconds_to_wait", lambda attempt, retry_after: 0.0)
    choice = {"message": {"role": "assistant", "content": "[[A]]"}, "logprobs": {"content": tokens}}
    fault = (200, {}, json.dumps({"choices": [choice]}))
    chat = [{"role": "user", "content": "x"}]
    with Endpoint(lambda question: "[[A]]", [fault], {"A": -0.5, "B": float("-inf")}) as endpoint:
        judge = endpoint_judge(endpoint.url, "m", max_tries=2)
        ((_, reply),) = judge.weigh([chat], "[[", "AB")
        assert (reply.log_probabilities, reply.requests, len(endpoint.requests)) == ([-0.5, -100.0], 2, 2)
        endpoint.faults = [fault] * 2
        ((_, reply),) = judge.weigh([chat], "[[", "AB")
        assert reply.log_probabilities is None and "the reply is malformed" in reply.error


@pytest.mark.parametrize("reason", ["abort", "error", "content_filter"])
def test_a_reply_that_was_broken_off_is_no_text(monkeypatch, reason):
    """It is asked for again and then a failed request; what a filter took away comes no better."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(endpoint_module, "seconds_to_wait", lambda attempt, stated: 0.0)
    chat, sampling = [{"role": "user", "content": "?"}], Sampling(0.0, 8)
    choice = {"message": {"role": "assistant", "content": "Step 1: 3 +"}, "finish_reason": reason}
    fault = (200, {}, json.dumps({"choices": [choice]}))
    with Endpoint(lambda question: "whole", [fault]) as endpoint:
        judge = endpoint_judge(endpoint.url, "tiny", max_tries=2)
        ((_, reply),) = judge.generate([chat], [0], sampling)
        if reason == "content_filter":
            assert "content filter" in reply.error and reply.text == "" and len(endpoint.requests) == 1
        else:
            assert reply.text == "whole" and reply.requests == len(endpoint.requests) == 2
        endpoint.faults = [fault] * 2
        ((_, reply),) = judge.generate([chat], [0], sampling)
        assert reply.error and reply.text == "" and ("broke its reply off" in reply.error) is (reason[0] != "c")
        endpoint.faults = [fault] * 2
        ((_, reply),) = judge.weigh([chat], "[[", "AB")
        assert reply.error and reply.log_probabilities is None


def test_ratings_and_the_best_of_n_of_an_endpoint(tmp_path, monkeypatch, capsys):
    rows = [{"prompt": "x", "responses": ["right", "b", "", "dd"], "best": 0}, {"prompt": "y", "responses": ["one"]}, 7]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Endpoint(lambda question: f"[[{min(10, 1 + len(shown(question)[0]))}]]") as endpoint:
        run_here(monkeypatch, tmp_path, endpoint.url, "--task", "rating", "--to_pairs", str(tmp_path / "pairs.jsonl"))
    assert [judged["scores"] for judged in judged_rows(tmp_path)] == [[6, 2, 1, 3], [4]]
    printed = capsys.readouterr().out
    assert "1 refused (1 not_an_object)" in printed and "no pair of 1 empty_content, 1 single_answer" in printed
    refused = [json.loads(line) for line in (tmp_path / "judged_refused_rows.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in refused] == [(3, "not_an_object")]
    with Endpoint(right) as endpoint:
        run_here(monkeypatch, tmp_path, endpoint.url, "--task", "best_of_n", "--num_orders", "4")
        assert len(endpoint.requests) == 4
    (judged,) = judged_rows(tmp_path)
    assert judged["winners"] == [0] and {order["order"][0] for order in judged["orders"]} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--judge", "x"], "either --judge"),
        (["--num_samples", "2"], "--temperature above 0"),
        (["--verdict", "logits", "--temperature", "1"], "--verdict logits"),
        (["--temperature", "-1"], "--temperature is -1"),
        (["--temperature", "nan"], "--temperature is nan"),
        (["--requests_per_minute", "0"], "--requests_per_minute is 0"),
        (["--max_concurrent", "0"], "--max_concurrent is 0"),
        (["--num_orders", "0"], "--num_orders is 0"),
        (["--extra_body", "{"], "--extra_body is no JSON"),
        (["--extra_body", "[]"], "--extra_body must be"),
        (["--endpoint", "localhost:8000"], "is no address"),
        (["--output", "{tmp}"], "is a directory"),
        (["--output", "{tmp}/rows.jsonl"], "would overwrite the input"),
        (["--to_pairs", "{tmp}/judged.jsonl"], "would overwrite --output"),
        (["--cache", "{tmp}"], "--cache"),
        (["--cache", "{tmp}/rows.jsonl"], "--cache"),
        (["--input", "{tmp}/missing.jsonl"], "no such file"),
    ],
)
def test_bad_arguments_are_one_line_before_anything_is_asked(tmp_path, monkeypatch, capsys, flags, message):
    content = write_rows(tmp_path).read_bytes()
    with Endpoint(right) as endpoint, pytest.raises(SystemExit) as stopped:
        run_here(monkeypatch, tmp_path, endpoint.url, *(flag.replace("{tmp}", str(tmp_path)) for flag in flags))
    assert stopped.value.code == 2 and not endpoint.requests
    *_, last_line = capsys.readouterr().err.strip().splitlines()
    assert last_line.startswith("error: ") and message in last_line
    assert (tmp_path / "rows.jsonl").read_bytes() == content


def test_a_launcher_of_several_processes_is_refused(tmp_path, monkeypatch, capsys):
    """Each would ask everything."""
    write_rows(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with Endpoint(right) as endpoint, pytest.raises(SystemExit):
        run_here(monkeypatch, tmp_path, endpoint.url)
    assert "one process judges" in capsys.readouterr().err and not endpoint.requests


def test_the_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match="pip install openai"):
        endpoint_judge("http://localhost:1/v1", "m")


def test_judging_at_an_endpoint_needs_no_torch():
    heavy = "sorted({'torch', 'transformers', 'datasets', 'openai'} & sys.modules.keys())"
    script = f"import sys, useful_code.judge, useful_code.eval_reward_bench_judge; print({heavy})"
    printed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


# the limit, with a clock of its own


class Clock:
    def __init__(self):
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@given(st.floats(1, 600), st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_no_minute_holds_more_requests_than_the_limit(per_minute, pauses):
    """Whatever time passes between the requests. A minute that begins with a request holds the limit, rounded up."""
    clock = Clock()
    limit = RateLimit(per_minute, lambda: clock.now, clock.sleep)
    times = []
    for pause in pauses:
        clock.now += pause
        limit.wait()
        times.append(clock.now)
    for start in times:
        assert sum(start <= time < start + 59.999 for time in times) <= -(-per_minute // 1)
    assert all(b - a >= 60 / per_minute - 1e-6 for a, b in zip(times, times[1:], strict=False))


def test_a_busy_endpoint_holds_every_request_back():
    clock = Clock()
    limit = RateLimit(None, lambda: clock.now, clock.sleep)
    limit.wait()
    assert clock.now == 0
    limit.pause(7)
    limit.wait()
    assert clock.now == 7


class SharedClock:
    """A clock that several threads sleep by: it moves when all that are left sleep, to the first who wakes."""

    def __init__(self, num_threads: int):
        self.now, self._awake = 0.0, num_threads
        self._changed = threading.Condition()
        self._alarms: list[float] = []  # when those who sleep want to wake

    def sleep(self, seconds: float) -> None:
        with self._changed:
            alarm = self.now + seconds
            self._alarms.append(alarm)
            self._awake -= 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.now >= alarm)

    def leave(self) -> None:
        with self._changed:
            self._awake -= 1
            self._changed.notify_all()

    def wait_until_all_sleep(self) -> bool:
        """False when none is left."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._awake, timeout=60)
            return bool(self._alarms)

    def move_on(self) -> None:
        with self._changed:
            self.now = min(self._alarms)
            woken = [alarm for alarm in self._alarms if alarm <= self.now]
            self._alarms = [alarm for alarm in self._alarms if alarm > self.now]
            self._awake += len(woken)
            self._changed.notify_all()


@pytest.mark.parametrize("pause", [None, 4.5, 1.75])
def test_threads_that_waited_through_a_pause_leave_one_by_one(pause):
    """Eight threads, 120 requests a minute. The first leaves at once and the endpoint asks it for a pause: the others
    leave when it is over, half a second apart, not all together."""
    clock = SharedClock(num_threads=8)
    limit = RateLimit(120, lambda: clock.now, clock.sleep)
    times = []

    def send():
        limit.wait()
        times.append(clock.now)
        clock.leave()

    threads = [threading.Thread(target=send, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert clock.wait_until_all_sleep() and times == [0]
    if pause is not None:
        limit.pause(pause)
    while clock.wait_until_all_sleep():
        clock.move_on()
    first = 0.5 if pause is None else pause
    assert times == pytest.approx([0, *(first + 0.5 * place for place in range(7))])


def test_pauses_between_tries_grow_and_a_stated_one_counts():
    pauses = [seconds_to_wait(attempt, None, draw=lambda: 0.0) for attempt in range(1, 9)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert seconds_to_wait(1, "12.5") == 12.5 and seconds_to_wait(1, "-3") == 0 and seconds_to_wait(1, "1e9") == 300
    assert seconds_to_wait(1, "Wed, 21 Oct 2015 07:28:00 GMT") == 0  # a date that has passed
    assert seconds_to_wait(1, "soon", draw=lambda: 0.0) == 0.5 and seconds_to_wait(1, "nan", draw=lambda: 0.0) == 0.5


def test_the_limit_holds_for_a_real_run(tmp_path, monkeypatch):
    """Twelve requests and one repeated, 1,200 a minute: the limit gave out thirteen places, 0.05 seconds apart."""
    write_rows(tmp_path)
    given_out = []

    class Watched(RateLimit):
        def wait(self):
            given_out.append(self._interval)
            super().wait()

    monkeypatch.setattr(endpoint_module, "RateLimit", Watched)
    with Endpoint(right, [(429, NOW, "{}")]) as endpoint:
        run_here(monkeypatch, tmp_path, endpoint.url, "--requests_per_minute", "1200")
    assert given_out == [pytest.approx(0.05)] * 13


# the cache


def test_several_processes_share_a_cache(tmp_path):
    """Four write the same and different keys at once; nothing is lost, and the first reply to a question stays."""
    script = (
        "import sys\n"
        "from useful_code.judging.cache import ReplyCache\n"
        "from useful_code.judging.interface import Reply\n"
        "cache = ReplyCache(sys.argv[1]); me = sys.argv[2]\n"
        "for i in range(50): cache.keep(f'{me}-{i}', Reply(me)); cache.keep(f'shared-{i}', Reply(me))\n"
        "print(''.join(cache.keep(f'shared-{i}', Reply('x')).text for i in range(50)))\n"
    )
    path = tmp_path / "cache.sqlite"
    processes = [
        subprocess.Popen([sys.executable, "-c", script, path, str(me)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for me in range(4)
    ]
    printed = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert {process.returncode for process in processes} == {0}
    assert len(printed) == 1 and len(printed.pop()) == 50  # all saw the same
    assert len(ReplyCache(path).find(f"{me}-{i}" for me in range(4) for i in range(50))) == 200


def test_equal_questions_of_one_run_are_asked_once(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Endpoint(lambda question: "[[A]]") as endpoint:
        asker = Asker(endpoint_judge(endpoint.url, "m"), ReplyCache(":memory:"))
        chat = [{"role": "user", "content": "x"}]
        voted = asker.vote([chat, chat, chat], lambda text, finished: Verdict(text), Sampling())
        assert len(voted) == 3 and len(endpoint.requests) == 1 and asker.cost.new_replies == 1


def test_log_probabilities_survive_the_cache(tmp_path):
    cache = ReplyCache(tmp_path / "cache.sqlite")
    reply = Reply(log_probabilities=[-0.1, -100.0], prompt_tokens=3)
    assert cache.keep("k", reply) == reply and ReplyCache(tmp_path / "cache.sqlite").find(["k"]) == {"k": reply}
