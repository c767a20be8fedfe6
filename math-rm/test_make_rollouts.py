"""Rollouts: labels by hand, on a world whose truth is known, and the real command with a generator that counts.

Travels with the folder when it is copied.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import make_rollouts
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_rollouts import label, solutions_of_part, solve
from rollout_generators import Generator, Question, endpoint_generator, local_generator
from rollout_labels import Tally, most_prefixes, rollout_labels
from rollout_report import Made
from rollout_rows import (
    Problem,
    Solution,
    answer_of,
    check_problem,
    check_solution,
    gold_of,
    problem_check,
    read_checked,
    solution_of,
    source_options,
)
from rollout_store import CompletionStore, Sampler

import useful_code
from useful_code.judging.interface import Reply, Sampling
from useful_code.known_truth.steps import finish_solution, make_steps
from useful_code.known_truth.world import World
from useful_code.reasons import RowRefused
from useful_code.split_steps import split_steps
from useful_code.step_rows import check_steps
from useful_code.tiny import save_tiny_judge
from useful_code.user_errors import UserError

HERE = Path(__file__).parent
SAMPLING = Sampling(temperature=0.7, max_new_tokens=64, seed=0)
GOOD, BAD = "Step 2: so far so good.\nThe answer is 7", "Step 2: oh.\nThe answer is 8"


def scripted(answer, failing=lambda question, seed: False):
    """A generator that writes what a function of question and seed says; `asked` holds what it was asked."""
    asked = []

    def generate(questions, seeds, sampling):
        for place, (question, seed) in enumerate(zip(questions, seeds, strict=True)):
            asked.append((question, seed))
            yield place, Reply(error="no") if failing(question, seed) else Reply(answer(question, seed), True)

    return Generator("scripted", "scripted", generate), asked


def sampler_of(folder: Path, generator: Generator) -> Sampler:
    return Sampler(generator, CompletionStore(folder / "steps.jsonl.completions.jsonl"), SAMPLING)


def solution(text: str, gold: str = "7") -> Solution:
    return solution_of(Problem({"prompt": "3 + 4?", "answer": gold}, gold), Reply(text))


RIGHT = solution("Step 1: we add.\nStep 2: 3 + 4 is 7.\nStep 3: The answer is 7.")
WRONG = solution("Step 1: we add.\nStep 2: 3 + 4 is 8.\nStep 3: The answer is 8.")


@pytest.mark.parametrize("kind", ["hard", "soft", "first_error"])
@pytest.mark.parametrize(("answer", "value"), [(GOOD, True), (BAD, False)])
def test_check_7_all_right_is_all_plus_and_never_right_all_minus(tmp_path, kind, answer, value):
    generator, _ = scripted(lambda question, seed: answer)
    row = label([RIGHT if value else WRONG], sampler_of(tmp_path, generator), 4, kind)[0]
    assert row["labels"] == [value] * 3 and row["outcome"] is value
    assert row["completions"] == (RIGHT if value else WRONG).steps and row["prompt"] == "3 + 4?"
    check_steps(row)


def test_check_7_soft_shares_and_hard_labels_of_the_same_completions(tmp_path):
    generator, asked = scripted(lambda question, seed: GOOD if seed % 3 == 0 else BAD)
    sampler = sampler_of(tmp_path, generator)
    solutions = [RIGHT, WRONG, solution("We add.\n\nTwo more.\n\nAnd again.\n\nIt is 7")]
    soft, hard = (label(solutions, sampler, 8, kind) for kind in ("soft", "hard"))
    assert len(asked) == 8 * 6  # the hard labels cost nothing; "Step 1: we add." is a prefix of two solutions
    for one, other in zip(soft, hard, strict=True):
        assert all(value * 8 in range(9) for value in one["labels"])
        assert other["labels"] == [value > 0 for value in one["labels"]]
        assert one["labels"][-1] == other["labels"][-1] == one["outcome"]
        assert one["rollouts"][-1] is None and all(total == 8 for _, total in one["rollouts"][:-1])
    assert [row["outcome"] for row in soft] == [True, False, True]


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40), st.booleans()), max_size=8),
    st.sampled_from(["hard", "soft", "first_error"]),
)
def test_search_finds_the_first_error_in_few_prefixes(cases, kind):
    """With a first error after `good` steps: the same labels as from all prefixes, from at most ceil(log2 K)."""
    cases = [(steps, steps if right else min(good, steps - 1), right) for steps, good, right in cases]
    asked = Counter()

    def count(prefixes):
        asked.update(prefix.solution for prefix in prefixes)
        assert len({(prefix.solution, prefix.num_steps) for prefix in prefixes}) == len(prefixes)
        return [Tally(2 if t <= cases[i][1] else 0, 4) for i, t in prefixes]

    found = rollout_labels([steps for steps, _, _ in cases], [right for _, _, right in cases], count, kind)
    for i, ((steps, good, right), labelled) in enumerate(zip(cases, found, strict=True)):
        last = float(right) if kind == "soft" else right
        value = 0.5 if kind == "soft" else True
        assert labelled.labels == [value] * min(good, steps - 1) + [False] * (steps - 1 - good) + [last]
        assert asked[i] <= most_prefixes(steps, kind)
        assert sum(tally is not None for tally in labelled.rollouts) == asked[i]
        if kind == "first_error":
            assert asked[i] <= math.ceil(math.log2(steps))


def test_unknown_where_every_request_failed():
    def count(prefixes):
        return [Tally(0, 0) if prefix.num_steps == 2 else Tally(1, 1) for prefix in prefixes]

    assert rollout_labels([4], [False], count, "soft")[0].labels == [1.0, None, 1.0, 0.0]
    assert rollout_labels([4], [False], count, "first_error")[0].labels == [None, None, None, False]


def test_on_the_known_truth_world_labels_are_the_truth(tmp_path):
    """A completer that makes no mistake: hard labels are `on_path`, and the search finds where a path is left."""
    rows = make_steps(World(), 60, seed=100, error_rate=0.3)
    problems = {row["prompt"]: row["truth"]["problem"] for row in rows}

    def complete(question: Question, seed: int) -> str:
        prefix = split_steps(question.prefix)
        steps = finish_solution(np.random.default_rng(seed), problems[question.prompt], prefix, error_rate=0.0)
        return "\n".join(steps[len(prefix) :])

    generator, asked = scripted(complete)
    golds = {row["prompt"]: Problem({}, str(row["truth"]["problem"]["answer"])) for row in rows}
    solutions = [check_solution(row, golds, "\n") for row in rows]
    full = label(solutions, sampler_of(tmp_path / "full", generator), 2, "hard")
    num_full = len(asked)
    searched = label(solutions, sampler_of(tmp_path / "searched", generator), 2, "first_error")
    assert len(asked) - num_full < num_full
    num_compared = 0
    for row, one, other in zip(rows, full, searched, strict=True):
        truth = row["truth"]
        assert one["labels"] == truth["on_path"] and one["outcome"] is truth["correct"]
        assert one["given_labels"] == row["labels"]
        if truth["correct"]:
            assert all(other["labels"])
        elif truth["on_path"] == sorted(truth["on_path"], reverse=True):
            num_compared += 1
            assert other["labels"] == one["labels"]
        else:  # two mistakes cancel and a third follows: the search finds one of the places where the path is left
            error = other["labels"].index(False)
            assert not one["labels"][error] and (error == 0 or one["labels"][error - 1])
    assert num_compared >= 10


def test_a_prefix_is_the_text_exactly_as_it_was_written(tmp_path):
    text = " We add. ки\n 3 + 4 \n\n is 7. ки\nSo 7 ки"
    generator, asked = scripted(lambda question, seed: text if not question.prefix else "7")
    sampler = sampler_of(tmp_path, generator)
    solved = solve([check_problem({"prompt": "3 + 4?", "answer": 7}, set())], sampler, 1, "Think.")
    row = label(solved[0], sampler, 1, "hard", "Think.")[0]
    assert [question.prefix for question, _ in asked] == ["", " We add. ки\n ", " We add. ки\n 3 + 4 \n\n is 7. ки\n"]
    assert {question.prompt for question, _ in asked} == {"3 + 4?\n\nThink."} and row["prompt"] == "3 + 4?"
    assert row["completions"] == ["We add.", "3 + 4 \n\n is 7.", "So 7"] and row["outcome"] is True


def test_a_text_that_was_cut_off_has_no_answer_unless_it_states_one():
    assert answer_of("Step 1: 3", Reply(" + 4 is 7", finished=False)) is None
    assert answer_of("Step 1: 3", Reply(" + 4 is 7", finished=True)) == "7"
    assert answer_of("The answer", Reply(" is 7. And", finished=False)) == "7"
    assert answer_of("The answer", Reply(" is 7", finished=False)) is None  # of 75
    assert answer_of("The answer", Reply(" is 7", finished=True)) == "7"
    assert not solution_of(solution("x").problem, Reply("#### 7", finished=False)).is_whole


def test_the_last_step_of_a_text_that_was_cut_off_has_no_label(tmp_path):
    """Its completions label the step before; a text that was cut off behind its answer is whole."""
    generator, _ = scripted(lambda question, seed: "The answer is 7.")
    problem = solution("x").problem
    cut = solution_of(problem, Reply("Step 1: 3 + 4\nStep 2: is", finished=False))
    stated = solution_of(problem, Reply("Step 1: 3 + 4\nThe answer is 7. And", finished=False))
    first, second = label([cut, stated], sampler_of(tmp_path, generator), 2, "hard")
    assert (first["labels"], first["outcome"], first["finished"]) == ([True, None], False, False)
    assert second["labels"][-1] is True and "finished" not in second


def test_solutions_that_cannot_be_used_and_repeated_ones(tmp_path):
    """Two texts among eight samples, one of them empty; of the second problem every request fails."""
    generator, _ = scripted(
        lambda question, seed: GOOD if seed % 2 else " \n", lambda question, seed: question.prompt == "2"
    )
    sampler, made = sampler_of(tmp_path, generator), Made()
    part = [(None, check_problem({"prompt": prompt, "answer": "7"}, set())) for prompt in "12"]
    arguments = argparse.Namespace(solutions=None, num_solutions=8, instruction="")
    found = [solution for _, solution in solutions_of_part(part, sampler, arguments, made)]
    reasons = Counter(refused.reason for refused in found if isinstance(refused, RowRefused))
    solutions = [solution for solution in found if isinstance(solution, Solution)]
    assert len(solutions) == 1 and reasons["no_solution"] == 1 and sampler.asked.failed == 8
    assert made.sampled == 8 and made.repeated + reasons["no_steps"] == 7 and made.repeated > 0 < reasons["no_steps"]


@pytest.mark.parametrize("style", ["chatml", "gemma", "llama3"])
def test_a_local_model_goes_on_where_the_prefix_ends(tmp_path, style):
    """Without randomness the rest of a text is what the model had written: whole = prefix + completion."""
    question, likeliest = Question("3 + 4?", ""), Sampling(temperature=0.0, max_new_tokens=24)
    for seed in range(50):  # a random model writes random bytes: look for one that begins with a sign
        save_tiny_judge(tmp_path, style=style, seed=seed)
        generator = local_generator(str(tmp_path), 24, dtype="float32")
        [(_, whole)] = generator.generate([question], [0], likeliest)
        prefix = whole.text[:1]
        if prefix.isascii() and prefix.isprintable() and len(whole.text) > 8:
            break
    [(_, rest)] = generator.generate([question._replace(prefix=prefix)], [0], likeliest)
    assert prefix and (prefix + rest.text)[:8] == whole.text[:8]  # behind that a byte may be half a sign


def test_an_endpoint_goes_on_where_the_trimmed_prefix_ends(monkeypatch):
    """As the templates of Llama 3 and Gemma trim: no line break is lost or doubled, whoever writes it."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    whole = "Step 1: we add.\n\nStep 2: The answer is 7."

    def rest(messages: list[dict], seed: int) -> str:
        begun = messages[-1]["content"]
        assert begun == begun.strip() and whole.startswith(begun)  # what comes is what the server would read
        return whole[len(begun) :] if seed else whole[len(begun) :].lstrip()

    questions = [Question("3 + 4?", "Step 1: we add.\n\n")] * 2 + [Question("3 + 4?", "Step 1: we")]
    with Endpoint(rest) as endpoint:
        generator = endpoint_generator(endpoint.url, "tiny")
        replies = dict(generator.generate(questions, [0, 1, 1], SAMPLING))
    assert [questions[place].prefix + replies[place].text for place in range(3)] == [whole] * 3


def test_failed_requests_are_no_completions_and_are_asked_again(tmp_path):
    failures = {"on": True}
    generator, asked = scripted(lambda question, seed: GOOD, lambda question, seed: failures["on"] and seed % 2 == 0)
    sampler = sampler_of(tmp_path, generator)
    soft = label([WRONG], sampler, 8, "soft")[0]
    totals = [total for _, total in soft["rollouts"][:2]]
    assert sampler.asked.failed == 16 - sum(totals) > 0 and soft["labels"][:2] == [1.0, 1.0]
    sampler.close()
    failures["on"] = False
    again = sampler_of(tmp_path, generator)
    assert label([WRONG], again, 8, "soft")[0]["rollouts"][:2] == [(8, 8), (8, 8)]
    assert again.asked.new == sampler.asked.failed and again.asked.failed == 0


def test_a_prefix_that_is_too_long_has_no_label(tmp_path):
    def check(question):
        if "Step 2" in question.prefix:
            raise RowRefused("over_max_length")

    generator, _ = scripted(lambda question, seed: GOOD)
    sampler = sampler_of(tmp_path, generator._replace(check=check))
    row = label([RIGHT], sampler, 4, "hard")[0]
    assert row["labels"] == [True, None, True] and sampler.asked.too_long == 4
    check_steps(row)


# --- the store ---


def test_the_store_forgets_a_half_written_line_and_nothing_else(tmp_path):
    path = tmp_path / "c.jsonl"
    key = "00" * 16
    store = CompletionStore(path)
    for sample, text in enumerate(["one", "two\n\u2028ü\ud800"]):
        store.keep(key, {"prompt": "?"}, sample, Reply(text, sample == 0))
    with pytest.raises(UserError, match="another run"):
        CompletionStore(path)
    store.close()
    whole = path.read_bytes()
    assert whole.count(b"\n") == 3
    path.write_bytes(whole[:-9])
    store = CompletionStore(path)
    assert store.has(key, 0) and not store.has(key, 1) and store.num_stored == 1 and store.num_broken == 0
    store.keep(key, {"prompt": "?"}, 1, Reply("two\n\u2028ü\ud800", False))
    assert store.read(key, 1).text == "two\n\u2028ü\ud800" and store.read(key, 0) == Reply("one", True)
    store.close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("broken", [b"{...", json.dumps({"question": "00" * 16, "sample": 1, "text": 5}).encode()])
def test_a_broken_line_in_the_middle_is_counted(tmp_path, broken):
    path = tmp_path / "c.jsonl"
    store = CompletionStore(path)
    for sample in range(3):
        store.keep("00" * 16, {}, sample, Reply("text"))
    store.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], broken + b"\n", lines[3]]))
    store = CompletionStore(path)
    assert [store.has("00" * 16, sample) for sample in range(3)] == [True, False, True] and store.num_broken == 1
    store.close()
    path.write_text("a line of something else\n")
    with pytest.raises(UserError, match="something else"):
        CompletionStore(path)
    assert path.read_text() == "a line of something else\n"


def test_other_settings_are_other_completions(tmp_path):
    generator, asked = scripted(lambda question, seed: GOOD)
    store = CompletionStore(tmp_path / "c.jsonl")
    for change in ({}, {}, {"temperature": 0.8}, {"max_new_tokens": 65}, {"seed": 1}):
        Sampler(generator, store, SAMPLING._replace(**change)).sample([Question("?", "")], 2)
    Sampler(generator._replace(identity="other"), store, SAMPLING).sample([Question("?", ""), Question("?", "a")], 2)
    assert len(asked) == 2 * 6 and len({seed for _, seed in asked}) == 12


# --- rows ---


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer": "7"}, "missing_key"),
        ({"prompt": ["?"], "answer": "7"}, "wrong_type"),
        ({"prompt": " ", "answer": "7"}, "empty_content"),
        ({"prompt": "?"}, "no_gold_answer"),
        ({"prompt": "?", "answer": " "}, "no_gold_answer"),
        ({"prompt": "?", "answer": True}, "no_gold_answer"),
        ({"prompt": "?", "answer": math.nan}, "no_gold_answer"),
        ({"prompt": "?", "solution": "We cannot know it."}, "no_gold_answer"),
        ({"prompt": "seen", "answer": "7"}, "repeated_problem"),
    ],
)
def test_refused_problems(row, reason):
    with pytest.raises(RowRefused) as refused:
        check_problem(row, {"seen"})
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"solution": "Adding them we get 7."}, "7"),
        ({"solution": "Adding, the answer is x + 1."}, "x + 1"),
        ({"solution": r"x^2 + \sin x"}, r"x^2 + \sin x"),
        ({"answer": math.inf, "solution": "7"}, "7"),
        ({"answer": "an even number"}, "an even number"),
    ],
)
def test_gold_answers(row, gold):
    assert gold_of(row) == gold


def test_what_is_no_json_in_another_column_is_written_as_null():
    row = {"prompt": "?", "answer": "7", "score": math.nan, "scores": [1.5, {"best": -math.inf}]}
    kept = {"score": None, "scores": [1.5, {"best": None}]}
    problem = check_problem(row, set())
    solution = check_solution(row | {"completions": ["7"]}, {}, "\n")
    for written in (problem.row, solution.problem.row):
        assert {name: written[name] for name in kept} == kept and json.dumps(written, allow_nan=False)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "?", "completions": []}, "no_messages"),
        ({"prompt": "?", "answer": "7"}, "missing_key"),
        ({"prompt": "?", "completions": ["7"]}, "no_gold_answer"),
        ({"prompt": "?", "completions": ["7", " "], "answer": "7"}, "empty_content"),
    ],
)
def test_refused_solutions(row, reason):
    with pytest.raises(RowRefused) as refused:
        check_solution(row, {}, "\n")
    assert refused.value.reason == reason


# --- the command ---


class Endpoint:
    """A chat-completions endpoint; `answer` makes a reply from the messages and the seed."""

    def __init__(self, answer, hold_at: int | None = None, fail=lambda body: False):
        self.requests: list[dict] = []
        self.answered: Counter[str] = Counter()
        self.reached = threading.Event()
        self.release = threading.Event()
        lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    endpoint.requests.append(body)
                    number = len(endpoint.requests)
                if number == hold_at:
                    endpoint.reached.set()
                    endpoint.release.wait()
                    self.close_connection = True
                    return
                message = {"role": "assistant", "content": answer(body["messages"], body["seed"])}
                reply = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
                status = 400 if fail(body) else 200
                content = json.dumps(reply if status == 200 else {"error": {"message": "no"}}).encode()
                with lock:
                    endpoint.answered[json.dumps([body["messages"], body["seed"]])] += status == 200
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


def answer_messages(messages: list[dict], seed: int) -> str:
    """Solves; from the right beginning on one half of the completions is right."""
    if messages[-1]["role"] == "user":
        return f"Step 1: we add, in way {seed}.\nStep 2: 3 + 4 is 7.\nStep 3: The answer is {7 + seed % 2}."
    return "so\nThe answer is 7." if seed % 2 else "\nThe answer is 8."


def write_problems(folder: Path) -> Path:
    rows = [{"question": f"{i}: 3 + 4?", "answer": "3 + 4 = 7\n#### 7", "source_id": i} for i in range(3)]
    lines = [json.dumps(row) for row in [*rows, {"question": "no gold"}, rows[0]]]
    path = folder / "problems.jsonl"
    path.write_text("\n".join([*lines, "{"]) + "\n", encoding="utf-8")
    return path


def start(folder: Path, *flags, script: str = "make_rollouts.py", output: str = "steps.jsonl") -> subprocess.Popen:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    kept["PYTHONPATH"] = str(Path(useful_code.__file__).parents[1])
    words = [HERE / script, "--output", folder / output, *flags]
    return subprocess.Popen(
        [sys.executable, *map(str, words)], env=kept, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(folder: Path, *flags, **command: str) -> str:
    process = start(folder, *flags, **command)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return printed


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_command_killed_in_the_middle_goes_on_and_pays_nothing_twice(tmp_path):
    """3 problems, 2 solutions each, 2 prefixes each, 4 completions each: 6 + 48 requests; kill -9 at the 20th."""
    flags = ["--input", write_problems(tmp_path), "--num_solutions", 2, "--num_completions", 4, "--model", "tiny"]
    flags += ["--max_new_tokens", 100, "--labels", "soft", "--max_concurrent", 1, "--rows_per_part", 2]
    with Endpoint(answer_messages, hold_at=20) as endpoint:
        process = start(tmp_path, "--endpoint", endpoint.url, *flags)
        assert endpoint.reached.wait(timeout=120)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        endpoint.release.set()
        assert not (tmp_path / "steps.jsonl").exists() and sum(endpoint.answered.values()) == 19
        store = tmp_path / "steps.jsonl.completions.jsonl"
        with open(store, "ab") as file:
            file.write(b'{"question": "00')  # half a line
        printed = finished(tmp_path, "--endpoint", endpoint.url, *flags)
        assert set(endpoint.answered.values()) == {1} and len(endpoint.answered) == 54
        before = (tmp_path / "steps.jsonl").read_bytes()
        for body in endpoint.requests:
            begun = body["messages"][-1]["role"] == "assistant"
            assert body.get("continue_final_message", False) is begun and body["max_tokens"] == 100
            assert body.get("add_generation_prompt", True) is not begun and body["temperature"] == 0.7
        again = finished(tmp_path, "--endpoint", endpoint.url, *flags)
        assert len(endpoint.requests) == 55 and "cost: 0 new texts" in again
    assert (tmp_path / "steps.jsonl").read_bytes() == before
    for text in (
        "6 rows read, 3 kept, 3 refused",
        "3 problems: 6 solutions, and about 120 completions if they have 6 steps each",
        "19 are stored already",
        "solutions: 6 sampled, 0 of them repetitions",
        "step rows: 6 with 18 steps",
        "cost: 35 new texts (0 cut off), 19 paid before",
        "0 requests failed",
    ):
        assert text in printed
    rows = read(tmp_path / "steps.jsonl")
    assert len(rows) == 6 and {row["source_id"] for row in rows} == {0, 1, 2}
    for row in rows:
        check_steps(row)
        assert len(row["completions"]) == 3 and "question" not in row
        assert row["labels"] == [right / total for right, total in row["rollouts"][:2]] + [float(row["outcome"])]
    refused = [row["reason"] for row in read(tmp_path / "steps_refused_rows.jsonl")]
    assert refused == ["no_gold_answer", "repeated_problem", "malformed_json"]
    card = json.loads((tmp_path / "steps_card.json").read_text())
    assert card["made"]["completions"] == 48 and card["asked"]["new"] == 0


def test_the_command_with_given_solutions_and_failures(tmp_path):
    given = tmp_path / "given.jsonl"
    steps = ["Step 1: we add.", "Step 2: it is 7.", "Step 3: The answer is 7."]
    rows = [{"prompt": f"{i}: 3 + 4?", "completions": steps, "labels": [True, True, None]} for i in range(3)]
    given.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "prompt": "other"}]))

    def fail(body):
        return body["messages"][0]["content"].startswith("1:")

    flags = ("--solutions", given, "--input", write_problems(tmp_path), "--num_completions", 2)
    with Endpoint(answer_messages, fail=fail) as endpoint:
        printed = finished(tmp_path, *flags, "--endpoint", endpoint.url, "--model", "tiny", "--max_concurrent", 1)
        sent = {body["messages"][-1]["content"] for body in endpoint.requests}
    stored = [line["prefix"] for line in read(tmp_path / "steps.jsonl.completions.jsonl") if "prefix" in line]
    assert all(prefix.endswith(".\n") and prefix.rstrip() in sent for prefix in stored) and len(stored) == 4
    rows = read(tmp_path / "steps.jsonl")
    assert [row["labels"][:2] == [None, None] for row in rows] == [False, True, False]
    assert all(row["outcome"] and row["labels"][2] is True for row in rows)
    assert rows[0]["given_labels"] == [True, True, None]
    assert "3 solutions: at most 12 completions" in printed and "4 requests failed" in printed
    assert "2 steps without a label" in printed and "The same command asks for these again" in printed


def test_the_command_with_a_model_on_this_machine(tmp_path):
    """A tiny model writes nonsense, which never states an answer: every label is false, and all of it is kept."""
    save_tiny_judge(tmp_path / "generator")
    solutions = [{"prompt": f"{i}?", "completions": ["We add.", f"It is {i}."], "answer": 123456} for i in range(3)]
    (tmp_path / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in solutions))
    flags = ["--generator_name_or_path", tmp_path / "generator", "--solutions", tmp_path / "given.jsonl"]
    flags += ["--num_completions", 2, "--max_new_tokens", 24, "--labels", "hard"]
    printed = finished(tmp_path, *flags)
    rows = read(tmp_path / "steps.jsonl")
    assert rows and all(row["outcome"] is False and not any(row["labels"]) for row in rows)
    assert "cut off" in printed
    stored = (tmp_path / "steps.jsonl.completions.jsonl").read_bytes()
    assert "cost: 0 new texts" in finished(tmp_path, *flags)
    assert (tmp_path / "steps.jsonl.completions.jsonl").read_bytes() == stored


def test_a_second_start_by_mistake_leaves_the_refused_rows_of_the_first(tmp_path, monkeypatch):
    flags = ["--generator_name_or_path", "x", "--input", str(write_problems(tmp_path))]
    (tmp_path / "s_refused_rows.jsonl").write_text("{}\n")
    monkeypatch.setattr(sys, "argv", ["make_rollouts.py", "--output", str(tmp_path / "s.jsonl"), *flags])
    store = CompletionStore(tmp_path / "s.jsonl.completions.jsonl")
    with pytest.raises(UserError, match="another run"):
        make_rollouts.main()
    store.close()
    assert (tmp_path / "s_refused_rows.jsonl").read_text() == "{}\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full")
def test_a_full_disk_is_one_line_and_the_end_of_the_run_no_second_error(tmp_path):
    store = CompletionStore(tmp_path / "c.jsonl")
    store._file.close()
    store._file = open("/dev/full", "ab")
    with pytest.raises(UserError, match="cannot be written"):
        store.keep("00" * 16, {}, 0, Reply("text"))
    store.close()


def test_a_separator_as_it_is_typed_in_a_shell(monkeypatch):
    words = ["x", "--solutions", "s.jsonl", "--output", "o.jsonl", "--generator_name_or_path", "g"]
    monkeypatch.setattr(sys, "argv", [*words, "--step_separator", r" \n\t"])
    assert make_rollouts.parse_arguments().step_separator == " \n\t"


def test_a_given_solution_that_was_cut_off_stays_so():
    """Rows of ours say so; the number at the cut is no answer, and the half-written step has no label."""
    row = {"prompt": "3 + 4 = ?", "answer": "7", "completions": ["3 + 4 is", "now 7"], "labels": [True, None]}
    solution = check_solution(row | {"finished": False}, {}, "\n")
    assert not solution.is_right and not solution.is_whole
    whole = check_solution(row, {}, "\n")
    assert whole.is_right and whole.is_whole and "finished" not in whole.problem.row


def test_a_split_belongs_to_the_source_that_has_splits(tmp_path):
    path = str(write_problems(tmp_path))
    assert source_options([path, "owner/name"], "test", "main") == {
        path: {"split": None},
        "owner/name": {"split": "test", "name": "main"},
    }
    assert source_options([path], "test", None) == {path: {"split": "test"}}  # read_rows.py says that a file has none
    with pytest.raises(
        UserError, match=r"--config_name belongs to data sets of the hub, and \S+problems\.jsonl is none"
    ):
        source_options([path], None, "main")


def test_problems_of_a_hub_set_with_configurations(tmp_path, monkeypatch):
    def load_dataset(path, **options):
        assert (path, options) == ("openai/gsm8k", {"name": "main"})
        rows = {"question": ["2 + 2?", "9 * 2?"], "answer": ["2 + 2 = <<2+2=4>>4\n#### 4", "#### 18"]}
        return datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    options = source_options(["openai/gsm8k"], "train", "main")["openai/gsm8k"]
    problems, counts = read_checked("openai/gsm8k", problem_check(set()), tmp_path / "refused.jsonl", None, options)
    assert [problem.gold for _, problem in problems] == ["4", "18"] and counts.kept == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --input"),
        (["--input", "x.jsonl"], "give either"),
        (["--input", "x.jsonl", "--endpoint", "http://x/v1"], "belong together"),
        (["--input", "x.jsonl", "--generator_name_or_path", "x", "--num_solutions", "0"], "--num_solutions is 0"),
        (["--input", "x.jsonl", "--generator_name_or_path", "x", "--temperature", "0"], "all samples are equal"),
        (["--input", "x.jsonl", "--generator_name_or_path", "x"], "no such file"),
        (["--input", "s.jsonl", "--solutions", "x.jsonl", "--generator_name_or_path", "x"], "would overwrite"),
        (["--input", "x.jsonl", "--generator_name_or_path", "x", "--output", "steps.json"], "ends in .jsonl"),
    ],
)
def test_options_that_cannot_work_are_one_line(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_rollouts.py", "--output", str(tmp_path / "s.jsonl"), *flags])
    with pytest.raises(UserError, match=message):
        make_rollouts.main()
