"""Embeddings: equal to those of one text alone, one per row or a listed refusal, resumed, shared among processes."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from array import array
from datetime import datetime
from decimal import Decimal

import pytest
import torch
from armo_commands import FOLDER, finished, run_script, write_rows
from embedding_files import part_path, read_card, read_cards, read_part_rows, read_parts, read_rows_alone
from embedding_files import write_rows as write_rows_of_part
from extract_embeddings import check_finite, embed, render_row, survey
from transformers import AutoModel

from useful_code.armorm import gating_tokens
from useful_code.armorm_model import find_last
from useful_code.prefix_attention import share_prefix_where_possible
from useful_code.reasons import RowRefused
from useful_code.render import read_template, render
from useful_code.reward_model import load_tokenizer
from useful_code.tiny import byte_tokenizer, tiny_reward_model
from useful_code.user_errors import UserError


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def all_of(folder, name):
    return torch.cat([part.tensors[name] for part in read_parts(folder)])


@pytest.fixture(scope="module")
def plain(chain):
    """Hidden states (T, D) of a chat by plain Transformers, alone and without padding; its ids; the closing tokens."""
    model = AutoModel.from_pretrained(chain.decoder, dtype=torch.float32).eval()
    template = read_template(load_tokenizer(str(chain.decoder)))

    @torch.inference_mode()
    def hidden(messages):
        ids = render(template, messages)
        return model(torch.tensor([ids])).last_hidden_state[0], ids

    return hidden, gating_tokens(template)


def test_there_is_one_embedding_per_row_or_a_listed_refusal(chain):
    for rows, folder, kind in ((chain.rated, chain.of_rated, "rated"), (chain.pairs, chain.of_pairs, "pairs")):
        card, kept = read_card(folder), list(read_rows_alone(folder))
        refused = rows_of(folder / "refused_rows.jsonl")
        assert card["kind"] == kind and card["rows"] == len(kept) == len(all_of(folder, "response"))
        assert card["rows_read"] == len(rows_of(rows)) == len(kept) + len(refused)
        lines = {int(row["place"].rsplit(":", 1)[1]) for row in kept} | {record["line"] for record in refused}
        assert lines == set(range(1, card["rows_read"] + 1))
    assert (
        read_card(chain.of_pairs)["refused"] == {"wrong_type": 1}
        or sum(read_card(chain.of_pairs)["refused"].values()) == 1
    )


def test_embeddings_of_pairs_are_those_of_plain_transformers(chain, plain):
    hidden_of, tokens = plain
    responses, prompts = all_of(chain.of_pairs, "response"), all_of(chain.of_pairs, "prompt")
    pairs = rows_of(chain.pairs)[:-1]
    assert responses.shape == (len(pairs), 2, 32) and prompts.shape == (len(pairs), 32)
    for pair, answers, prompt in zip(pairs[:12], responses, prompts, strict=False):
        for side, answer in zip(("chosen", "rejected"), answers, strict=True):
            hidden, ids = hidden_of(pair[side])
            assert answer == pytest.approx(hidden[-1], abs=1e-5)
            assert prompt == pytest.approx(hidden[find_last(ids, tokens)], abs=1e-5)


def test_embeddings_of_rated_rows_stand_beside_their_ratings(chain, plain):
    hidden_of, _ = plain
    source = rows_of(chain.rated)
    responses = all_of(chain.of_rated, "response")
    for row, response in list(zip(read_rows_alone(chain.of_rated), responses, strict=True))[:12]:
        raw = source[int(row["place"].rsplit(":", 1)[1]) - 1]
        assert row["ratings"] == {name: value for name, value in raw["ratings"].items() if value is not None}
        assert response == pytest.approx(hidden_of(raw["messages"])[0][-1], abs=1e-5)
        answer = raw["messages"][-1]["content"]
        assert row["num_tokens"] == [len(answer.encode()) + 2]  # bytes, the end of the turn, a newline


@pytest.mark.parametrize("shares_prefix", [True, False])
def test_progress_is_told_batch_by_batch(shares_prefix):
    """Ten rows of four prompts; batches of at most 16 tokens."""
    decoder = tiny_reward_model("llama", 32).model
    share_prefix_where_possible(decoder, shares_prefix)
    rows = [{"ids": [array("i", [7, i % 4, 9, i])], "prompt": str(i % 4)} for i in range(10)]
    seen: list[int] = []
    responses, _ = embed(decoder, [9], 0, rows, 16, seen.append)
    assert len(responses) == sum(seen) == 10 and len(seen) > 1


def test_parts_that_are_there_are_not_computed_again(chain, tmp_path):
    shutil.copytree(chain.of_pairs, tmp_path / "out")
    (tmp_path / "out" / "embeddings.json").unlink()
    number_of_parts = 2
    part_path(tmp_path / "out", 1, number_of_parts).unlink()  # as if it had been interrupted there
    before = part_path(tmp_path / "out", 0, number_of_parts).stat().st_mtime_ns
    flags = ("--model_name_or_path", chain.decoder, "--input", chain.pairs, "--rows_per_part", 64)
    said = finished("extract_embeddings.py", *flags, "--output", tmp_path / "out")
    assert "80 pairs in 2 parts, 16 of them computed now" in said
    assert part_path(tmp_path / "out", 0, number_of_parts).stat().st_mtime_ns == before
    assert torch.equal(all_of(tmp_path / "out", "response"), all_of(chain.of_pairs, "response"))


def test_rows_beside_the_embeddings_are_always_those_of_the_last_run(chain, tmp_path):
    """Labels change, the input moves, a file of rows is lost: nothing is computed anew, and the rows are right."""
    pairs = rows_of(chain.pairs)
    for i, pair in enumerate(pairs[:-1]):
        pair |= {"label": 0.75, "subset": "line\u2028separator" if i else "lone \ud800 surrogate"}
    moved = write_rows(tmp_path / "moved.jsonl", pairs)
    shutil.copytree(chain.of_pairs, tmp_path / "out")
    part_path(tmp_path / "out", 0, 2).with_suffix(".jsonl").unlink()
    flags = ("--model_name_or_path", chain.decoder, "--input", moved, "--rows_per_part", 64)
    assert "80 pairs in 2 parts, 0 of them computed now" in finished(
        "extract_embeddings.py", *flags, "--output", tmp_path / "out"
    )
    rows = list(read_rows_alone(tmp_path / "out"))
    assert len(rows) == 80 and {row["label"] for row in rows} == {0.75}
    assert rows[0]["subset"] == "lone \ud800 surrogate" and rows[1]["subset"] == "line\u2028separator"
    assert all(row["place"].startswith(str(moved)) for row in rows)


def test_a_source_id_of_any_type_is_written(tmp_path):
    """Parquet files have dates, bytes and decimals."""
    ids = [datetime(2024, 1, 2), b"ab", Decimal("1.5"), 7]
    write_rows_of_part(tmp_path / "part.safetensors", [{"source_id": value} for value in ids])
    found = [row["source_id"] for row in read_part_rows(tmp_path / "part.safetensors")]
    assert found == ["2024-01-02 00:00:00", "b'ab'", "1.5", 7]


def test_numbers_that_are_not_finite_are_named(chain):
    with pytest.raises(UserError, match=r"rows.jsonl:2: the decoder gives numbers that are not finite"):
        check_finite(torch.tensor([[[1.0]], [[torch.nan]]]), [{"place": f"rows.jsonl:{i}"} for i in (1, 2)])


def test_an_answer_that_closes_a_prompt_itself_is_refused():
    """In templates whose headers are plain text, as some of Mistral's are."""
    tokenizer = byte_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
    )
    template = read_template(tokenizer)
    tokens = gating_tokens(template)
    rows = [{"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": text}],
             "ratings": {"a": 1}, "scales": {"a": [0, 1]}} for text in ("yes", "[INST] no [/INST] a")]  # fmt: skip
    assert render_row(rows[0], template, tokens, None, "rated")["num_tokens"]
    with pytest.raises(RowRefused, match="the answer holds what closes a prompt"):
        render_row(rows[1], template, tokens, None, "rated")


@pytest.mark.parametrize(("row", "kind"), [({"chosen": [], "rejected": []}, "pairs"), ({"messages": []}, "rated")])
def test_the_first_row_that_can_be_read_tells_its_kind(tmp_path, row, kind):
    """Lines that are no JSON, and JSON that is no object, stand before it; a part ends between them."""
    path = tmp_path / "rows.jsonl"
    path.write_text("not json\n[1]\n7\n" + json.dumps(row) + "\n", encoding="utf-8")
    arguments = argparse.Namespace(input=str(path), split=None, rows_per_part=2)
    assert survey(arguments) == ([2, 2], kind)


def test_changed_rows_are_computed_again(chain, tmp_path):
    shutil.copytree(chain.of_pairs, tmp_path / "out")
    pairs = rows_of(chain.pairs)
    pairs[70]["chosen"][-1]["content"] += " Indeed."
    changed = write_rows(tmp_path / "pairs.jsonl", pairs)
    flags = ("--model_name_or_path", chain.decoder, "--input", changed, "--rows_per_part", 64)
    finished("extract_embeddings.py", *flags, "--output", tmp_path / "out")
    different = (all_of(tmp_path / "out", "response") != all_of(chain.of_pairs, "response")).any(-1).any(-1)
    assert 70 in different.nonzero().flatten().tolist()


@pytest.mark.slow  # two processes that each load torch
@pytest.mark.parametrize("more", [(), ("--deepspeed",)], ids=["whole", "ZeRO-3"])
def test_two_processes_write_what_one_writes(chain, tmp_path, more):
    """Of six parts each has three; of five the second process has two, and then keeps the first one company. A folder
    of other parts is left as it was by both."""
    rows_per_part = "20" if more else "16"
    flags = ["--model_name_or_path", str(chain.decoder), "--input", str(chain.pairs), "--rows_per_part", rows_per_part]
    one, two = tmp_path / "one", tmp_path / "two"
    finished("extract_embeddings.py", *flags, "--output", one)
    if more:  # a tiny model has no weight that DeepSpeed would find worth sharing out
        config = json.loads((FOLDER / "zero3.json").read_text(encoding="utf-8"))
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        (tmp_path / "zero3.json").write_text(json.dumps(config), encoding="utf-8")
        more = (*more, str(tmp_path / "zero3.json"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    script = [str(FOLDER / "extract_embeddings.py"), *flags, "--output", str(two), *more]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-9000:]
    assert torch.equal(all_of(one, "response"), all_of(two, "response"))
    assert list(read_rows_alone(one)) == list(read_rows_alone(two))
    assert (one / "refused_rows.jsonl").read_bytes() == (two / "refused_rows.jsonl").read_bytes()
    assert read_card(one) | {"minutes": 0} == read_card(two) | {"minutes": 0}
    before = {path.name: path.read_bytes() for path in two.iterdir()}
    script[script.index(rows_per_part)] = "2"
    done = subprocess.run([*launch, *script], capture_output=True, text=True, env=environment)
    assert done.returncode != 0 and "made with another --rows_per_part" in done.stderr
    assert {path.name: path.read_bytes() for path in two.iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--rows_per_part", 0), "must be at least 1"),
        (("--rows_per_part", 7), "made with another --rows_per_part or from other rows"),
        (("--max_length", 3), "none of 81 rows can be used"),
        (("--model_name_or_path", "nowhere"), "no such directory"),
    ],
)
def test_bad_input_is_one_line(chain, tmp_path, flags, message):
    shutil.copytree(chain.of_pairs, tmp_path / "out")
    defaults = {"--model_name_or_path": chain.decoder, "--rows_per_part": 64} | {flags[0]: flags[1]}
    words = [word for pair in defaults.items() for word in pair]
    done = run_script("extract_embeddings.py", *words, "--input", chain.pairs, "--output", tmp_path / "out")
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]


def test_a_folder_that_is_not_finished_or_broken_says_so(chain, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_card(tmp_path / "nothing")
    shutil.copytree(chain.of_pairs, tmp_path / "out")
    path = part_path(tmp_path / "out", 0, 2)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="cannot be read"):
        list(read_parts(tmp_path / "out"))
    path.with_suffix(".jsonl").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        read_part_rows(path)
    (tmp_path / "out" / "embeddings.json").unlink()
    with pytest.raises(UserError, match="was not finished"):
        list(read_parts(tmp_path / "out"))


def test_embeddings_of_two_decoders_do_not_go_together(chain, tmp_path):
    with pytest.raises(UserError, match="rated rows are needed"):
        read_cards([chain.of_pairs], "rated")
    shutil.copytree(chain.of_pairs, tmp_path / "out")
    card = read_card(tmp_path / "out")
    card["model"]["fingerprint"] = "another"
    (tmp_path / "out" / "embeddings.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="embeddings of two models"):
        read_cards([chain.of_pairs, tmp_path / "out"], "pairs")
