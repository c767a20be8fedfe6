"""Scoring: equal to plain Transformers one text at a time, whatever the batches; resumable; nothing lost."""

import argparse
import json
import random
import re
import subprocess
import sys
from array import array
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from useful_code import score
from useful_code.reward_model import load_reward_model, prepare_reward_model
from useful_code.shared_prefix import num_packed_tokens, pad
from useful_code.tiny import byte_tokenizer, save_tiny_model, tiny_config, tiny_reward_model
from useful_code.user_errors import UserError, exit_cleanly

SCRIPT = Path(score.__file__)
TOLERANCE = 1e-5  # float32, rewards of size 1
GROUP_LISTS = st.lists(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=3), max_size=12
)


def chat(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


GOOD_ROWS = [
    {"prompt": "What is 2 + 2?", "responses": ["4", "", "It is five. " * 5], "id": "three answers", "ids": [1, 2]},
    {"prompt": "Größe?", "responses": ["naïve <|im_end|> 😀"], "id": "typed special text"},
    {"chosen": chat("Hi", "Hello!"), "rejected": chat("Hi", "Go away"), "id": "a pair"},
    {
        "prompt": [
            {"role": "system", "content": "Be brief"},
            *chat("One?", "Two."),
            {"role": "user", "content": "Why?"},
        ],
        "responses": ["Because", "Why not", "Because", "No idea at all"],
        "id": "several turns",
    },
    {"prompt": "What is 2 + 2?", "responses": ["4", "", "It is five. " * 5], "id": "again"},
]
BAD_ROWS = [  # row, reason
    ({"prompt": "Hi"}, "missing_key"),
    ({"prompt": "Hi", "responses": "text"}, "wrong_type"),
    ({"prompt": "Hi", "responses": []}, "wrong_type"),
    ({"prompt": "Hi", "responses": ["a", 1]}, "wrong_type"),
    ({"prompt": " ", "responses": ["a"]}, "empty_content"),
    ({"prompt": chat("Hi", "Hello"), "responses": ["a"]}, "odd_length"),
    ({"prompt": "Hi", "responses": ["a\ud800"]}, "invalid_unicode"),
    ({"chosen": chat("Hi", "a"), "rejected": chat("Ho", "b")}, "history_differs"),
    (["Hi"], "not_an_object"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tiny models of several kinds, and rows.jsonl: good and bad rows in turn."""
    folder = tmp_path_factory.mktemp("score")
    save_tiny_model(folder / "model")
    save_tiny_model(folder / "soft-capped", "gemma2")  # cannot share a prefix: padded batches
    save_tiny_model(folder / "other weights", seed=1)
    vocab_size = len(byte_tokenizer())
    AutoModelForCausalLM.from_config(tiny_config("llama", vocab_size)).save_pretrained(folder / "causal")
    tiny_reward_model("llama", vocab_size, num_labels=3).save_pretrained(folder / "three labels")
    shape = {"vocab_size": vocab_size, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    BertModel(BertConfig(**shape, intermediate_size=64)).save_pretrained(folder / "encoder without head")
    for name in ("causal", "three labels", "encoder without head"):
        byte_tokenizer().save_pretrained(folder / name)
    rows = []
    for i, (bad, _) in enumerate(BAD_ROWS):
        rows += GOOD_ROWS[i : i + 1] + [bad]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"prompt": "cut o\n'
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    return folder


def command_line(folder: Path, output: Path, *flags: str) -> list[str]:
    """`flags` come last and win."""
    paths = ["--reward_name_or_path", folder / "model", "--input", folder / "rows.jsonl", "--output", output]
    return [str(part) for part in (SCRIPT, *paths, *flags)]


def run_here(folder: Path, output: Path, *flags: str) -> list[dict]:
    """The command inside this process, which saves six seconds of start-up; the rows that it wrote."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command_line(folder, output, *flags))
        exit_cleanly(score.main)
    return read_lines(output)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def all_scores(rows: list[dict]) -> list[float]:
    return [value for row in rows for value in row["scores"]]


def plain_scores(directory: Path, rows: list[dict]) -> list[float]:
    """Plain Transformers, one conversation at a time; typed special text is made harmless by hand (`<` apart)."""
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rewards = []
    for row in rows:
        if "chosen" in row:
            conversations = [row["chosen"], row["rejected"]]
        else:
            prompt = row["prompt"]
            history = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            conversations = [[*history, {"role": "assistant", "content": text}] for text in row["responses"]]
        for conversation in conversations:
            *_, last = conversation
            typed = last["content"].replace("<|im_end|>", "\0")
            text = tokenizer.apply_chat_template([*conversation[:-1], {**last, "content": typed}], tokenize=False)
            ids = []
            for i, part in enumerate(text.split("\0")):
                ids += tokenizer("<|im_end|>", split_special_tokens=True).input_ids if i else []
                ids += tokenizer(part).input_ids
            with torch.inference_mode():
                rewards.append(model(input_ids=torch.tensor([ids])).logits.item())
    return rewards


# --- the command ---


def test_the_command_scores_every_row_in_order_and_accounts_for_the_others(folder, tmp_path):
    output = tmp_path / "new folder" / "scores.jsonl"
    finished = subprocess.run(
        [sys.executable, *command_line(folder, output)], capture_output=True, text=True, cwd=tmp_path
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    rows = read_lines(output)
    assert [{k: v for k, v in row.items() if k != "scores"} for row in rows] == GOOD_ROWS  # every column, in order
    assert [len(row["scores"]) for row in rows] == [3, 1, 2, 4, 3]
    assert all_scores(rows) == pytest.approx(plain_scores(folder / "model", GOOD_ROWS), abs=TOLERANCE)
    assert len(set(rows[0]["scores"])) == 3  # the empty answer has a score of its own
    refused = read_lines(output.with_name("scores_refused_rows.jsonl"))
    assert [r["reason"] for r in refused] == [reason for _, reason in BAD_ROWS] + ["malformed_json"]
    assert [r["line"] for r in refused] == [2, 4, 6, 8, 10, 11, 12, 13, 14, 15]
    assert "15 rows read, 5 kept, 10 refused" in finished.stdout
    assert "already" not in finished.stdout  # a row that comes twice is not a row of an earlier run
    assert {path.name for path in output.parent.iterdir()} == {"scores.jsonl", "scores_refused_rows.jsonl"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input", "{folder}/missing.jsonl"], "no such file"),
        (["--input", "{folder}/causal/config.json"], "no usable row|none of|not a list"),
        (["--reward_name_or_path", "{folder}/nowhere"], "no such directory"),
        (["--reward_name_or_path", "{folder}/causal"], "no reward head"),
        (["--reward_name_or_path", "{folder}/encoder without head"], "no reward head"),
        (["--reward_name_or_path", "{folder}/three labels"], r"score\.weight has the shape \(3, 32\)"),
        (["--chat_template_path", "{folder}/missing.jinja"], "missing.jinja"),
        (["--chat_template_path", "{folder}/rows.jsonl"], "chat template"),
        (["--max_tokens_per_batch", "0"], "--max_tokens_per_batch"),
        (["--max_length", "3"], "over_max_length"),
        (["--output", "{folder}"], "is a directory"),
        (["--output", "."], "is a directory"),
        (["--output", "{folder}/rows.jsonl"], "would overwrite"),
    ],
)
def test_bad_input_is_one_line_and_status_2(folder, tmp_path, capsys, flags, message):
    before = sorted(path.name for path in folder.iterdir())
    rows = (folder / "rows.jsonl").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        run_here(folder, tmp_path / "scores.jsonl", *(flag.format(folder=folder) for flag in flags))
    assert stopped.value.code == 2
    *_, last_line = capsys.readouterr().err.strip().splitlines()
    assert last_line.startswith("error: ")
    assert re.search(message, last_line)
    assert not (tmp_path / "scores.jsonl").exists()
    assert sorted(path.name for path in folder.iterdir()) == before and (folder / "rows.jsonl").read_bytes() == rows


def test_columns_that_json_cannot_hold_do_not_cost_the_scores(folder, tmp_path):
    """A lone surrogate in a column that is not rendered was read, so it can be written."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Hi", "responses": ["a"], "note": "\\ud800"}\n')
    assert run_here(folder, tmp_path / "scores.jsonl", "--input", str(rows))[0]["note"] == "\ud800"
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"prompt": ["Hi"], "responses": [["a"]], "when": [pandas.Timestamp("2024-05-01")]})
    table.to_parquet(tmp_path / "rows.parquet")
    written = run_here(folder, tmp_path / "scores.jsonl", "--input", str(tmp_path / "rows.parquet"))
    assert written[0]["when"].startswith("2024-05-01") and len(written[0]["scores"]) == 1


# --- the same numbers whatever the batches ---


@pytest.mark.parametrize("model", ["model", "soft-capped"])
def test_scores_do_not_depend_on_batches_or_row_order(folder, tmp_path, model):
    """Batches of one row and of all rows, rows as they are and shuffled: packed (Llama) and padded (Gemma 2)."""
    path = ["--reward_name_or_path", str(folder / model)]
    expected = plain_scores(folder / model, GOOD_ROWS)
    for tokens in (1, 150, 100_000):
        rows = run_here(folder, tmp_path / "scores.jsonl", *path, "--max_tokens_per_batch", str(tokens))
        assert all_scores(rows) == pytest.approx(expected, abs=TOLERANCE)
    shuffled = random.Random(0).sample(GOOD_ROWS, len(GOOD_ROWS))
    (tmp_path / "shuffled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shuffled))
    rows = run_here(folder, tmp_path / "scores.jsonl", *path, "--input", str(tmp_path / "shuffled.jsonl"))
    by_id = {row["id"]: row["scores"] for row in rows}
    assert [value for row in GOOD_ROWS for value in by_id[row["id"]]] == pytest.approx(expected, abs=TOLERANCE)


def test_positions_that_depend_on_the_batch_make_every_text_run_alone():
    """With dynamic RoPE a text beside one over the original length would get other positions, so another score."""
    changes = {"max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}
    model = tiny_reward_model("llama", 300, **changes).eval()
    prepare_reward_model(model)
    assert not model.shares_prefix
    short, long = [[5, 6, 7], [5, 6, 8]], [list(range(5, 65)), list(range(5, 66))]
    alone = score.score_batch(model, [short], 0)[0]
    assert score.score_batch(model, [long, short], 0)[1] == alone
    assert score.score_batch(model, [short, long], 0)[0] == alone


@pytest.mark.parametrize("name", ["model", "soft-capped"])
def test_equal_responses_get_equal_scores(folder, name):
    """To the last bit: otherwise rounding picks a winner where there is a tie."""
    model = load_reward_model(str(folder / name)).eval()
    generator = random.Random(0)
    for _ in range(20):
        same, other = ([generator.randrange(250) for _ in range(30)] for _ in range(2))
        first, second, third = score.score_batch(model, [[same, other], [other, same, array("i", same)]], 256)[1]
        assert second == third != first


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_do_not_depend_on_the_padding_side(folder, tmp_path, monkeypatch, side):
    monkeypatch.setattr(score, "pad", partial(pad, side=side))
    path = ["--reward_name_or_path", str(folder / "soft-capped")]
    rows = run_here(folder, tmp_path / "scores.jsonl", *path)
    assert all_scores(rows) == pytest.approx(plain_scores(folder / "soft-capped", GOOD_ROWS), abs=TOLERANCE)


def test_a_model_with_its_own_forward_is_told_the_pad_id(tmp_path):
    """GPT-2 looks for the last id that is not its pad id. The tokenizer pads with another than the model was saved
    with, so without being told it would read the padding."""
    torch.manual_seed(0)
    shape = {"vocab_size": len(byte_tokenizer()), "n_embd": 32, "n_layer": 1, "n_head": 4, "num_labels": 1}
    tokens = {"pad_token_id": 7, "bos_token_id": None, "eos_token_id": None}
    GPT2ForSequenceClassification(GPT2Config(**shape, **tokens)).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    parser = argparse.ArgumentParser()
    score.add_model_arguments(parser)
    arguments = parser.parse_args(["--reward_name_or_path", str(tmp_path)])
    model, _, pad_token_id = score.load_scorer(arguments, PartialState(cpu=True))
    group = [[10, 11, 12], [10, 11, 12, 13, 14]]
    alone = [model(input_ids=torch.tensor([ids])).logits.item() for ids in group]
    assert score.score_batch(model, [group], pad_token_id)[0] == pytest.approx(alone, abs=TOLERANCE)


@given(GROUP_LISTS, st.integers(1, 20))
def test_batches_hold_every_group_once_within_the_budget(groups, max_tokens):
    batches = score.fill_batches(groups, max_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(groups)))
    for batch in batches:
        assert len(batch) == 1 or sum(num_packed_tokens(groups[i]) for i in batch) <= max_tokens
    lengths = [num_packed_tokens(groups[i]) for batch in batches for i in batch]
    assert lengths == sorted(lengths, reverse=True)  # too little memory shows in the first batch, not in the last


@given(GROUP_LISTS, st.integers(1, 20))
def test_padded_batches_stay_within_the_budget_with_their_padding(groups, max_tokens):
    batches = score.fill_padded_batches(groups, max_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(groups)))
    for batch in batches:
        sequences = [sequence for index in batch for sequence in groups[index]]
        assert len(batch) == 1 or len(sequences) * max(map(len, sequences)) <= max_tokens


# --- interrupted runs ---

GROUPS = [[array("i", [1, 2, 3 + i]), array("i", [1, 2, 30, 4 + i])] for i in range(8)]


class Counting(torch.nn.Module):
    """The model, counting its batches; it dies before batch `dies_at`."""

    def __init__(self, model, dies_at: int | None = None):
        super().__init__()
        self.model, self.dies_at, self.num_batches = model, dies_at, 0
        self.shares_prefix = model.shares_prefix

    def forward(self, **inputs):
        if self.num_batches == self.dies_at:
            raise KeyboardInterrupt
        self.num_batches += 1
        return self.model(**inputs)


@pytest.fixture(scope="module")
def model(folder):
    return load_reward_model(str(folder / "model")).eval()


def score_all(model, parts: Path, fingerprint: str = "model", groups=GROUPS) -> list[list[float]]:
    return score.score_resumably(model, groups, 0, 5, parts, fingerprint)  # 5 tokens: a batch per group


@pytest.mark.parametrize("name", ["scores.jsonl", "sco[re]s*.jsonl"])  # a name is no glob pattern
def test_an_interrupted_run_goes_on_where_it_stopped(model, tmp_path, capsys, name):
    """Killed twice, in the middle of a line the second time; each group is computed once in all."""
    parts = tmp_path / name
    expected = score_all(model, tmp_path / "undisturbed.jsonl")
    with pytest.raises(KeyboardInterrupt):
        score_all(Counting(model, dies_at=3), parts)
    with pytest.raises(KeyboardInterrupt):
        score_all(Counting(model, dies_at=2), parts)
    files = [path for path in tmp_path.iterdir() if path.name.startswith(f"{name}.part-")]
    assert len(files) == 2
    with files[0].open("ab") as file:
        file.write(b'["5ec0')
    capsys.readouterr()
    last = Counting(model)
    assert score_all(last, parts) == expected
    assert last.num_batches == len(GROUPS) - 5
    assert "5 of 8 rows are scored already" in capsys.readouterr().out
    score.remove_parts(parts)
    assert {path.name.split(".part-")[0] for path in tmp_path.iterdir()} == {"undisturbed.jsonl"}


def test_the_command_goes_on_too(folder, tmp_path, monkeypatch, capsys):
    """Through `main`: the third batch fails, the second run computes only what is missing, no part stays."""
    output, real, calls = tmp_path / "scores.jsonl", score.score_batch, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(score, "score_batch", failing)
    flags = ["--max_tokens_per_batch", "1"]
    with pytest.raises(SystemExit) as stopped:
        run_here(folder, output, *flags)
    assert stopped.value.code == 130 and not output.exists()
    assert all_scores(run_here(folder, output, *flags)) == pytest.approx(
        plain_scores(folder / "model", GOOD_ROWS), abs=TOLERANCE
    )
    assert len(calls) == 5  # four different groups, and the call that failed
    assert not list(tmp_path.glob("*.part-*"))


def test_finished_batches_are_on_the_disk_before_the_next_begins(model, tmp_path):
    """A `kill -9` closes no file."""
    parts, lines = tmp_path / "scores.jsonl", []

    class Watching(Counting):
        def forward(self, **inputs):
            lines.append(len(read_lines(tmp_path / "scores.jsonl.part-0-0.jsonl")))
            return super().forward(**inputs)

    score_all(Watching(model), parts)
    assert lines == list(range(len(GROUPS)))


def test_damaged_parts_cost_time_and_nothing_else(model, tmp_path):
    parts = tmp_path / "scores.jsonl"
    expected = score_all(model, parts)
    (tmp_path / "scores.jsonl.part-0-0.jsonl").write_bytes(
        b'\xff\xfe\x00\n[1, 2, 3]\n7\nnull\n"ab"\n{"a": 1, "b": 2}\n'
    )
    assert score_all(model, parts) == expected


def test_parts_of_another_model_or_other_texts_are_not_used(model, tmp_path):
    parts = tmp_path / "scores.jsonl"
    score_all(model, parts)
    other_model = Counting(model)
    score_all(other_model, parts, fingerprint="other model")
    assert other_model.num_batches == len(GROUPS)
    changed = [[ids[::-1] for ids in group] for group in GROUPS]
    other_texts = Counting(model)
    score_all(other_texts, parts, groups=changed)
    assert other_texts.num_batches == len(GROUPS)


def test_the_order_of_responses_belongs_to_the_key(model, tmp_path):
    parts = tmp_path / "scores.jsonl"
    expected = score_all(model, parts)
    swapped = score_all(model, parts, groups=[group[::-1] for group in GROUPS])
    assert swapped == [pytest.approx(rewards[::-1], abs=TOLERANCE) for rewards in expected]
    assert expected[0][0] != pytest.approx(expected[0][1], abs=1e-3)


def test_the_fingerprint_follows_the_weights_and_the_type(folder, tmp_path):
    names = [str(folder / "model"), str(folder / "other weights")]
    models = [load_reward_model(name) for name in names]
    prints = [score.model_fingerprint(name, model) for name, model in zip(names, models, strict=True)]
    prints.append(score.model_fingerprint(names[0], models[0].bfloat16()))
    assert len(set(prints)) == 3
    save_tiny_model(tmp_path)
    before = score.model_fingerprint(str(tmp_path), models[1])
    assert score.model_fingerprint(str(tmp_path), models[1]) == before
    save_tiny_model(tmp_path, seed=1)  # files of the same sizes
    assert score.model_fingerprint(str(tmp_path), models[1]) != before


def test_a_score_that_is_not_finite_is_an_error_and_is_not_kept(model, tmp_path):
    """It would be no JSON, and a later run would take it for done."""

    class Broken(Counting):
        def forward(self, **inputs):
            output = super().forward(**inputs)
            if self.num_batches == 3:
                output.logits[1] = torch.nan
            return output

    parts = tmp_path / "scores.jsonl"
    with pytest.raises(UserError, match=r"row 3 .* not all finite"):
        score_all(Broken(model), parts)
    again = Counting(model)
    score_all(again, parts)
    assert again.num_batches == len(GROUPS) - 2


# --- several processes ---

LAUNCHED = """
import sys
from accelerate import PartialState
from useful_code import score
def keep(parts):  # remove_parts is called once, at the end: the parts show who did the work
    print("WORLD", PartialState().num_processes)
score.remove_parts = keep
score.main()
"""


def test_two_processes_share_the_rows_and_give_the_same_file(folder, tmp_path):
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED)
    output = tmp_path / "scores.jsonl"
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--main_process_port", "0"]
    finished = subprocess.run(
        [sys.executable, *launch, str(script), *command_line(folder, output)[1:]], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "WORLD 2" in finished.stdout
    rows = read_lines(output)
    assert [row["id"] for row in rows] == [row["id"] for row in GOOD_ROWS]
    assert all_scores(rows) == pytest.approx(plain_scores(folder / "model", GOOD_ROWS), abs=TOLERANCE)
    keys = [
        {json.dumps(key) for key, _ in read_lines(tmp_path / f"scores.jsonl.part-{process}-0.jsonl")}
        for process in (0, 1)
    ]
    assert len(keys[0]) == len(keys[1]) == 2 and not keys[0] & keys[1]  # four different groups
    assert finished.stdout.count("rows read") == 1
