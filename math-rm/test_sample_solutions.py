"""Solutions to choose among: the real command with an endpoint that counts, and what best_of_n.py reads of its output.

Travels with the folder when it is copied.
"""

import argparse
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
import sample_solutions
from rollout_generators import Question
from rollout_rows import candidate_of, check_problem
from test_make_rollouts import GOOD, Endpoint, finished, read, sampler_of, scripted, start, write_problems

from useful_code.judging.cache import key_of
from useful_code.judging.interface import Reply
from useful_code.row_readers import ReadRow
from useful_code.solution_rows import check_candidates
from useful_code.tiny import save_tiny_judge
from useful_code.user_errors import UserError


def answer_messages(messages: list[dict], seed: int) -> str:
    """One of four texts, one of them empty: samples repeat each other."""
    return ["Step 1: we add.\nThe answer is 7.", "The answer is 8.", " \n", "No idea at all."][seed % 4]


def seed_of(key: str, sample: int) -> int:
    """The seed that the sampler gives a sample; an answer is a function of it."""
    return int(key_of(key, sample)[:8], 16) >> 1


def sample_rows(folder: Path, generator, num_solutions: int, problems, name: str = "c") -> tuple[list[dict], str]:
    """What `run` writes for these problems, and the summary."""
    sampler = sampler_of(folder, generator)
    rows = [(ReadRow("x", n, {}, None), problem) for n, problem in enumerate(problems)]
    arguments = argparse.Namespace(num_solutions=num_solutions, instruction="", rows_per_part=2)
    output = folder / f"{name}.jsonl"
    try:
        made, _ = sample_solutions.run(rows, sampler, arguments, output, folder / "refused.jsonl")
        return read(output), sample_solutions.summary(made, sampler, num_solutions)
    finally:
        sampler.close()


def problem_of(prompt: str, **columns):
    return check_problem({"prompt": prompt, "answer": "7", **columns}, set())


def test_every_sample_is_a_candidate_in_the_order_of_its_number(tmp_path):
    """The text of sample n is the one that was written with its seed, repetitions and empty ones included."""
    generator, asked = scripted(lambda question, seed: f"The answer is {seed % 3}." if seed % 3 else "")
    (row,), printed = sample_rows(tmp_path, generator, 9, [problem_of("3 + 4?", source_id=5)])
    stored = read(tmp_path / "steps.jsonl.completions.jsonl")
    key = stored[0]["question"]
    seeds = [seed_of(key, n) for n in range(9)]
    assert sorted(seeds) == sorted(seed for _, seed in asked)
    texts = [f"The answer is {seed % 3}." if seed % 3 else "" for seed in seeds]
    assert [candidate["response"] for candidate in row["candidates"]] == texts
    assert row["prompt"] == "3 + 4?" and row["gold"] == "7" and row["source_id"] == 5
    num_equal = 9 - len(set(texts))
    assert (
        f"{num_equal} equal to an earlier one, {texts.count('')} without an answer, {texts.count('')} empty" in printed
    )
    assert num_equal > 0 < texts.count("")


def test_more_solutions_later_add_to_those_that_are_there(tmp_path):
    generator, asked = scripted(lambda question, seed: f"The answer is {seed}.")
    problems = [problem_of(prompt) for prompt in "abc"]
    few, _ = sample_rows(tmp_path, generator, 2, problems)
    many, _ = sample_rows(tmp_path, generator, 5, problems)
    assert len(asked) == 15
    for one, other in zip(few, many, strict=True):
        assert one["candidates"] == other["candidates"][:2] and len(other["candidates"]) == 5


@pytest.mark.parametrize(
    ("reply", "steps", "answer", "correct"),
    [
        (Reply("We add.\n\nThe answer is 7."), ["We add.", "The answer is 7."], "7", True),
        (Reply("We add 3 to 7"), ["We add 3 to 7"], "7", True),  # the last number of a whole text
        (Reply("We add 3 to 7", finished=False), ["We add 3 to 7"], None, False),
        (Reply("The answer is 7. And", finished=False), ["The answer is 7. And"], "7", True),
        (Reply("The answer is 7", finished=False), ["The answer is 7"], None, False),  # of 75
        (Reply("The answer is 7\n", finished=False), ["The answer is 7"], "7", True),
        (Reply(" \n"), [], None, False),
        (Reply("", finished=False), [], None, False),
        (Reply("so \ud800 is 7"), ["so \ufffd is 7"], "7", True),
    ],
)
def test_a_candidate_is_read_back_as_it_was_written(reply, steps, answer, correct):
    """A vote must not count the last number of a text that was cut off, when the file is read again either."""
    row = {"prompt": "3 + 4?", "gold": "7", "candidates": [candidate_of(problem_of("3 + 4?"), reply)]}
    for _ in range(2):
        row = check_candidates(json.loads(json.dumps(row)))
        (found,) = row["candidates"]
        assert (found["steps"], found["answer"], found["correct"]) == (steps, answer, correct)
        assert found["finished"] is reply.finished


def test_failed_requests_are_no_candidates_and_are_asked_again(tmp_path):
    """Of "b" every request fails, of "a" those with an even seed."""
    failing = {"on": True}

    def fails(question: Question, seed: int) -> bool:
        return failing["on"] and (question.prompt == "b" or seed % 2 == 0)

    generator, asked = scripted(lambda question, seed: f"{GOOD} {seed}", fails)
    problems = [problem_of("a"), problem_of("b")]
    (row,), printed = sample_rows(tmp_path, generator, 8, problems)
    num_there = len(row["candidates"])
    assert 0 < num_there < 8 and all("7" in candidate["response"] for candidate in row["candidates"])
    assert f"1 problems have fewer than 8 solutions, the least {num_there}" in printed
    assert f"{16 - num_there} requests failed" in printed and "The same command asks for these again" in printed
    assert [line["reason"] for line in read(tmp_path / "refused.jsonl")] == ["no_solution"]
    failing["on"] = False
    rows, printed = sample_rows(tmp_path, generator, 8, problems)
    assert [len(row["candidates"]) for row in rows] == [8, 8] and "fewer than" not in printed
    assert len(asked) == 16 + 16 - num_there


def test_no_solution_at_all_is_one_line(tmp_path):
    generator, _ = scripted(lambda question, seed: GOOD, lambda question, seed: True)
    with pytest.raises(UserError, match="no problem has a solution.*first failure: no"):
        sample_rows(tmp_path, generator, 2, [problem_of("a")])
    assert not (tmp_path / "c.jsonl").exists()


# --- the command ---


def test_the_command_killed_in_the_middle_goes_on_and_pays_nothing_twice(tmp_path):
    """3 problems with 6 solutions each; kill -9 at the 8th request."""
    flags = ["--input", write_problems(tmp_path), "--num_solutions", 6, "--model", "tiny", "--max_concurrent", 1]
    flags += ["--max_new_tokens", 100, "--rows_per_part", 2, "--instruction", "Think."]
    command = {"script": "sample_solutions.py", "output": "candidates.jsonl"}
    with Endpoint(answer_messages, hold_at=8) as endpoint:
        process = start(tmp_path, "--endpoint", endpoint.url, *flags, **command)
        assert endpoint.reached.wait(timeout=120)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        endpoint.release.set()
        assert not (tmp_path / "candidates.jsonl").exists() and sum(endpoint.answered.values()) == 7
        printed = finished(tmp_path, "--endpoint", endpoint.url, *flags, **command)
        assert set(endpoint.answered.values()) == {1} and len(endpoint.answered) == 18
        before = (tmp_path / "candidates.jsonl").read_bytes()
        again = finished(tmp_path, "--endpoint", endpoint.url, *flags, **command)
        assert len(endpoint.requests) == 19 and "cost: 0 new texts" in again
        assert {body["messages"][0]["content"] for body in endpoint.requests} == {
            f"{i}: 3 + 4?\n\nThink." for i in range(3)
        }
    assert (tmp_path / "candidates.jsonl").read_bytes() == before
    rows = read(tmp_path / "candidates.jsonl")
    texts = Counter(candidate["response"] for row in rows for candidate in row["candidates"])
    right = sum(candidate["correct"] for row in rows for candidate in row["candidates"])
    num_empty = texts[" \n"]
    assert texts.total() == 18 and right == texts["Step 1: we add.\nThe answer is 7."]
    for text in (
        "6 rows read, 3 kept, 3 refused",
        "3 problems: 18 solutions of up to 100 tokens; 7 are stored already",
        f"solutions: 18, {right / 18:.1%} right",
        f"{num_empty} empty",
        "cost: 11 new texts (0 cut off), 7 paid before",
    ):
        assert text in printed
    for i, row in enumerate(rows):
        assert row["prompt"] == f"{i}: 3 + 4?" and row["gold"] == "7" and row["source_id"] == i
        assert check_candidates(row) == row and len(row["candidates"]) == 6
    refused = [row["reason"] for row in read(tmp_path / "candidates_refused_rows.jsonl")]
    assert refused == ["no_gold_answer", "repeated_problem", "malformed_json"]
    card = json.loads((tmp_path / "candidates_card.json").read_text())
    assert card["made"]["solutions"] == 18 and card["num_solutions"] == 6 and card["asked"]["new"] == 0


def test_the_command_with_a_model_on_this_machine(tmp_path):
    """A tiny model writes nonsense, and all of it is kept."""
    save_tiny_judge(tmp_path / "generator")
    problems = write_problems(tmp_path)
    problems.write_text(problems.read_text().replace("#### 7", "#### 123456"))  # chance may end nonsense in a 7
    flags = ["--generator_name_or_path", tmp_path / "generator", "--input", problems, "--limit", 2]
    flags += ["--num_solutions", 3, "--max_new_tokens", 24]
    printed = finished(tmp_path, *flags, script="sample_solutions.py", output="candidates.jsonl")
    rows = read(tmp_path / "candidates.jsonl")
    assert [len(row["candidates"]) for row in rows] == [3, 3]
    assert not any(candidate["correct"] for row in rows for candidate in row["candidates"])
    assert "solutions: 6, 0.0% right; 0 of 2 problems are solved" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give either"),
        (["--endpoint", "http://x/v1"], "belong together"),
        (["--generator_name_or_path", "x", "--num_solutions", "0"], "--num_solutions is 0"),
        (["--generator_name_or_path", "x", "--limit", "0"], "--limit is 0"),
        (["--generator_name_or_path", "x", "--temperature", "0"], "all samples are equal"),
        (["--generator_name_or_path", "x"], "no such file"),
        (["--generator_name_or_path", "x", "--output", "x.jsonl"], "would overwrite"),
        (["--generator_name_or_path", "x", "--output", "c.csv"], "ends in .jsonl"),
    ],
)
def test_options_that_cannot_work_are_one_line(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    words = ["sample_solutions.py", "--input", "x.jsonl", "--output", "c.jsonl", *flags]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(UserError, match=message):
        sample_solutions.main()
