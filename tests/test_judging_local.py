"""A judge on this machine: texts, random numbers that belong to a chat, and labels where the template puts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from judge_endpoint import Endpoint, shown
from transformers import AutoModelForCausalLM

from useful_code import eval_reward_bench_judge
from useful_code import judge as judge_command
from useful_code.judging.interface import Sampling
from useful_code.judging.local import GumbelNoise, decode_behind, find_labels, ids_to_label, local_judge
from useful_code.reasons import RowRefused
from useful_code.render import read_template, render
from useful_code.reward_model import load_tokenizer
from useful_code.tiny import byte_tokenizer, save_tiny_judge, save_tiny_model, word_tokenizer
from useful_code.user_errors import UserError, exit_cleanly

ROOT = Path(judge_command.__file__).parents[1]
CHATS = [[{"role": "user", "content": text}] for text in ("a", "a much longer question <|im_end|>", "bb", "?")]
SUBSETS = ["alpacaeval-easy", "llmbar-natural", "donotanswer", "math-prm"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small are computed faster by one; other tests run beside these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_judge(folder, max_position_embeddings=8192)
    return folder


@pytest.fixture(scope="module")
def judge(tiny):
    return local_judge(str(tiny), max_new_tokens=8)


def texts(judge, chats, seeds, temperature) -> list[str]:
    replies = dict(judge.generate(chats, seeds, Sampling(temperature, 8)))
    assert sorted(replies) == list(range(len(chats)))
    return [replies[i].text for i in range(len(chats))]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_does_not_depend_on_the_batch(tiny, judge, temperature):
    """Alone, together, and in another order; each text belongs to its chat and seed."""
    seeds = [3, 4, 5, 6]
    together = texts(judge, CHATS, seeds, temperature)
    assert together == [texts(judge, [chat], [seed], temperature)[0] for chat, seed in zip(CHATS, seeds, strict=True)]
    assert together[::-1] == texts(judge, CHATS[::-1], seeds[::-1], temperature)
    one_by_one = local_judge(str(tiny), max_tokens_per_batch=1, max_new_tokens=8)
    assert together == texts(one_by_one, CHATS, seeds, temperature)
    others = texts(judge, CHATS, [7, 8, 9, 10], temperature)
    assert (together == others) == (temperature == 0)


def test_a_text_is_what_plain_transformers_writes(tiny, judge):
    """The likeliest token eight times, without padding and without `generate`."""
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    template = read_template(load_tokenizer(str(tiny)))
    for chat, text in zip(CHATS, texts(judge, CHATS, [0] * 4, 0.0), strict=True):
        ids = render(template, chat, add_generation_prompt=True)
        start = len(ids)
        with torch.inference_mode():
            for _ in range(8):
                ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
        assert text == template.tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_a_continuation_keeps_the_space_that_it_begins_with():
    """SentencePiece's decoder strips it from the first word of whatever it decodes."""

    class Tokenizer:
        words = ["▁we", "▁add", "ing", "</s>"]

        def decode(self, ids, skip_special_tokens):
            return "".join(self.words[i] for i in ids if i < 3).replace("▁", " ").removeprefix(" ")

    tokenizer = Tokenizer()
    assert tokenizer.decode([1, 2], True) == "adding"
    assert decode_behind(tokenizer, [0], [1, 2, 3]) == " adding" and decode_behind(tokenizer, [1], [2]) == "ing"
    assert decode_behind(tokenizer, [], [1, 2]) == decode_behind(tokenizer, [3], [1, 2]) == "adding"


def test_noise_draws_from_the_softmax():
    """20,000 draws at temperature 2 of three tokens: shares within five standard errors of softmax(logits / 2)."""
    logits = torch.tensor([2.0, 0.0, -1.0])
    expected = torch.softmax(logits / 2, dim=0)
    noise = GumbelNoise(2.0, range(20_000))
    drawn = noise(torch.empty(0), logits.expand(20_000, 3)).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=3) / 20_000
    assert (shares - expected).abs().max() < 5 * (0.25 / 20_000) ** 0.5
    again = noise(torch.empty(0), logits.expand(20_000, 3)).argmax(dim=1)
    assert not torch.equal(drawn, again)  # the next token has other random numbers


@pytest.mark.parametrize("style", ["chatml", "llama3", "gemma"])
def test_labels_are_weighed_where_the_template_puts_them(tmp_path, style):
    """Equal to log-softmax of plain Transformers at the token before the label of a rendered answer."""
    save_tiny_judge(tmp_path, style=style, max_position_embeddings=8192)
    judge = local_judge(str(tmp_path))
    tokenizer = load_tokenizer(str(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    weighed = dict(judge.weigh(CHATS, "[[", "ABC"))
    for i, chat in enumerate(CHATS):
        plain = [{"role": "user", "content": chat[0]["content"].replace("<|im_end|>", "<|im_end|>")}]
        ids = render(read_template(tokenizer), [*plain, {"role": "assistant", "content": "[[A]]"}])
        place = len(ids) - 1 - ids[::-1].index(tokenizer("A", add_special_tokens=False).input_ids[0])
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids[:place]])).logits[0, -1].log_softmax(-1)
        expected = [logits[tokenizer(label, add_special_tokens=False).input_ids[0]].item() for label in "ABC"]
        assert weighed[i].log_probabilities == pytest.approx(expected, abs=1e-4)


def test_labels_that_begin_alike_are_refused():
    template = read_template(byte_tokenizer("chatml"))
    assert len(find_labels(template, "[[", [str(i) for i in range(1, 10)]).token_ids) == 9
    with pytest.raises(UserError, match="--verdict generated"):
        find_labels(template, "[[", ["1", "10"])
    unknown = read_template(word_tokenizer(["A"]))
    with pytest.raises(UserError, match="--verdict generated"):
        find_labels(unknown, "[[", ["B", "C"])  # both are <unk>


def test_an_answer_that_the_template_changes_is_refused():
    template = read_template(byte_tokenizer("chatml"))
    place = find_labels(template, "[[", "AB")
    ids_to_label(template, place, CHATS[0])
    with pytest.raises(UserError, match="changes an answer"):
        ids_to_label(template, place._replace(num_after=3), CHATS[0])


def test_a_chat_without_room_for_an_answer_is_refused(tmp_path):
    save_tiny_judge(tmp_path, max_position_embeddings=64)
    judge = local_judge(str(tmp_path), max_new_tokens=16)
    judge.check(CHATS[0])
    with pytest.raises(RowRefused, match="over_max_length"):
        judge.check([{"role": "user", "content": "x" * 60}])


def test_other_weights_are_another_judge(tiny, judge, tmp_path):
    save_tiny_judge(tmp_path, seed=1, max_position_embeddings=8192)
    assert judge.identity == local_judge(str(tiny)).identity != local_judge(str(tmp_path)).identity
    assert judge.identity != local_judge(str(tiny), dtype="bfloat16").identity


def test_a_record_beside_the_weights_is_no_other_judge(tmp_path):
    """Or its cached replies would be lost; a template beside them is another judge."""
    save_tiny_judge(tmp_path, max_position_embeddings=8192)
    before = local_judge(str(tmp_path)).identity
    for name in ("run.json", "record.txt", "record_outputs.jsonl", "README.md", "training_args.bin"):
        (tmp_path / name).write_text("{}")
    assert local_judge(str(tmp_path)).identity == before
    with open(tmp_path / "chat_template.jinja", "a", encoding="utf-8") as file:
        file.write("{# #}")
    assert local_judge(str(tmp_path)).identity != before


def test_a_reward_model_is_no_judge(tmp_path):
    save_tiny_model(tmp_path)
    with pytest.raises(UserError, match="no causal language model"):
        local_judge(str(tmp_path))


def test_the_command_with_a_local_model(tiny, tmp_path):
    """As typed by a user: probabilities of a random model, both orders, scores for training, and a second run."""
    rows = [{"prompt": f"{i}?", "responses": ["one", "two or more"], "reference": "one"} for i in range(2)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "useful_code/judge.py", "--judge", str(tiny), "--input", tmp_path / "rows.jsonl"]
    command += ["--output", tmp_path / "judged.jsonl", "--cache", tmp_path / "cache.sqlite", "--verdict", "logits"]
    command += ["--to_pairs", tmp_path / "pairs.jsonl"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "cost: 4 new replies" in finished.stdout and "mean_label_mass" in finished.stdout
    judged = [json.loads(line)["judged"] for line in (tmp_path / "judged.jsonl").read_text().splitlines()]
    for verdict in judged:
        first, second = verdict["orders"]
        by_hand = (first["shares"][0] + second["shares"][1]) / 2
        assert verdict["probability"] == pytest.approx(by_hand) and verdict["status"] == "decided"
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(pairs) == 2 and all(pair["chosen_score"] > 0.5 > pair["rejected_score"] for pair in pairs)


def run_bench(monkeypatch, folder: Path, *flags) -> None:
    words = ["--record_dir", folder / "record.txt", "--data_set_name", folder / "bench.jsonl"]
    words += ["--cache", folder / "cache.sqlite", *flags]
    monkeypatch.setattr(sys, "argv", ["eval_reward_bench_judge.py", *map(str, words)])
    exit_cleanly(eval_reward_bench_judge.main)


def write_bench(folder: Path) -> list[dict]:
    rows = [
        {"prompt": f"{i}?", "chosen": "right", "rejected": f"wrong {i}", "subset": SUBSETS[i % 4], "id": i}
        for i in range(8)
    ]
    rows[7]["rejected"] = ""
    (folder / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def test_reward_bench_by_a_judge(tmp_path, monkeypatch, capsys):
    """An oracle, but for one tie, one invalid row and one that is judged by its place: 5 + 3 / 2 of 8."""
    rows = write_bench(tmp_path)

    def answer(question: str) -> str:
        for number, text in ((4, "[[C]]"), (5, "cannot say"), (6, "[[A]]")):
            if f"\n{number}?\n" in question:
                return text
        return f"[[{'AB'[shown(question).index('right')]}]]"

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Endpoint(answer) as endpoint:
        for _ in range(2):
            run_bench(monkeypatch, tmp_path, "--endpoint", endpoint.url, "--model", "m", "--rule", "conservative")
        assert len(endpoint.requests) == 16 + 2  # both orders, and the invalid ones once more; then from the cache
    outputs = [json.loads(line) for line in (tmp_path / "record_outputs.jsonl").read_text().splitlines()]
    assert [row["id"] for row in outputs] == [row["id"] for row in rows]
    assert [row["results"] for row in outputs] == [1, 1, 1, 1, 0.5, 0.5, 0.5, 1]
    results = json.loads((tmp_path / "record.json").read_text())
    assert results["model_type"] == "Judge" and results["tie_credit"] == 0.5
    assert [results[subset] for subset in SUBSETS] == [0.75, 0.75, 0.75, 1.0]
    assert results["score"]["value"] == pytest.approx(81.25)
    judging = results["judging"]
    assert judging["accuracy"] == pytest.approx(6.5 / 8) and judging["invalid_share"] == pytest.approx(1 / 8)
    assert judging["consistency"] == pytest.approx(6 / 7) and judging["rule"] == "conservative"
    assert judging["first_position_share"] == pytest.approx(7 / 12)
    record = (tmp_path / "record.txt").read_text()
    assert record.count("Note\tjudge: pairwise, generated, rule conservative; prompt version 1") == 2
    assert "invalid 12.50 %" in record
    printed = capsys.readouterr().out
    for text in ("Chat Hard", "consistency 0.857", "first_position_share 0.583", "1 invalid (12.5 %)", "record.txt"):
        assert text in printed


def test_reward_bench_by_ratings_of_a_local_model(tiny, tmp_path, monkeypatch):
    write_bench(tmp_path)
    run_bench(monkeypatch, tmp_path, "--judge", tiny, "--task", "rating", "--verdict", "logits")
    results = json.loads((tmp_path / "record.json").read_text())
    assert results["judging"]["task"] == "rating" and results["judging"]["consistency"] is None
    outputs = [json.loads(line) for line in (tmp_path / "record_outputs.jsonl").read_text().splitlines()]
    assert sum(row["results"] for row in outputs) / 8 == pytest.approx(results["judging"]["accuracy"])


def test_reward_bench_leaves_no_row_out(tmp_path, monkeypatch, capsys):
    rows = write_bench(tmp_path)
    save_tiny_judge(tmp_path / "short", max_position_embeddings=64)
    with pytest.raises(SystemExit) as stopped:
        run_bench(monkeypatch, tmp_path, "--judge", tmp_path / "short")
    assert stopped.value.code == 2
    assert f"row 1 (id {rows[0]['id']}, {SUBSETS[0]}) cannot be judged: over_max_length" in capsys.readouterr().err
    assert not (tmp_path / "record.txt").exists()
