"""The benchmark commands run end to end on a tiny model, and their sums are right. No time is asserted anywhere."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification

from useful_code.tiny import save_tiny_judge, save_tiny_model
from useful_code.user_errors import UserError

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_tiny_model(folder, "llama", "llama3")
    return folder


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__


def run(script: str, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(BENCHMARKS / script), *flags], capture_output=True, text=True, cwd=ROOT)


def test_scoring_finds_the_scores_of_the_pipeline_and_counts_tokens(tiny, tmp_path):
    rows = [
        {
            "id": i,
            "subset": "alpacaeval-easy",
            "prompt": f"say {i} " * (i + 1),
            "chosen": "yes " * (i + 1),
            "chosen_model": "a",
            "rejected": "no",
            "rejected_model": "b",
        }
        for i in range(9)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flags = ("--model", str(tiny), "--num_pairs", "6", "--batch_size", "4", "--output", str(tmp_path / "out.json"))
    finished = run("scoring.py", *flags, "--data_set_name", str(file))
    assert finished.returncode == 0, finished.stderr
    (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert result["pairs"] == 6 and result["max_difference_of_scores"] < 1e-5
    tokens = result["tokens"]
    assert tokens["ours"] < tokens["pipeline_one_by_one"] < tokens["pipeline"]
    assert result["bound"] == pytest.approx(tokens["pipeline"] / tokens["ours"])
    assert set(result["peak_memory_gib"]) == set(tokens) and all(
        0 < gib < 8 for gib in result["peak_memory_gib"].values()
    )


def test_embedding_finds_the_hidden_states_of_plain_transformers(benchmark_module, monkeypatch, tiny, tmp_path):
    flags = ("--model", str(tiny), "--num_pairs", "4", "--batch_size", "4", "--output", str(tmp_path / "out.json"))
    saved = []
    for pairs_per_prompt in (1, 2):
        monkeypatch.setattr(sys, "argv", ["embedding.py", *flags, "--pairs_per_prompt", str(pairs_per_prompt)])
        benchmark_module("embedding").main()
        (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
        assert result["pairs"] == 4 and result["prompts"] == 4 // pairs_per_prompt
        assert result["max_difference_of_scores"] < 1e-4
        tokens = result["tokens"]
        assert tokens["ours"] < tokens["one_by_one"] < tokens["padded"]
        saved.append(tokens["one_by_one"] / tokens["ours"])
    assert saved[0] < 2 < saved[1] < 4  # 900 tokens of 500, and 1800 of 600


def test_scoring_steps_gives_the_log_odds_of_plain_transformers(benchmark_module, monkeypatch, tmp_path):
    """Three ways to score the same steps; the problem is computed once, then per solution, then per step."""
    save_tiny_judge(tmp_path / "judge", "llama", "llama3")
    flags = ("--model", str(tmp_path / "judge"), "--num_problems", "2", "--num_solutions", "3", "--batch_size", "3")
    monkeypatch.setattr(sys, "argv", ["scoring_steps.py", *flags, "--output", str(tmp_path / "out.json")])
    benchmark_module("scoring_steps").main()
    (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert result["solutions"] == 6 and result["steps"] == 48 and result["max_difference_of_scores"] < 1e-4
    tokens = result["tokens"]
    assert tokens["ours"] < tokens["padded"] and 3 * tokens["padded"] < tokens["step_by_step"]
    assert result["share_of_bound"] == pytest.approx(result["ratio"]["padded"] * tokens["ours"] / tokens["padded"])


def test_ridge_fits_are_those_of_scikit_learn(benchmark_module, monkeypatch, tmp_path):
    flags = ("--num_rows", "600", "--num_features", "16", "--rows_per_part", "128", "--their_fits", "171")
    monkeypatch.setattr(sys, "argv", ["ridge_fits.py", *flags, "--output", str(tmp_path / "out.json")])
    benchmark_module("ridge_fits").main()
    (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert result["fits"] == result["their_fits_timed"] == 171
    assert 0 < result["largest_difference_of_a_weight"] < 1e-8 and result["ratio"] > 0


def test_both_orders_find_the_log_odds_of_plain_transformers(benchmark_module, monkeypatch, tmp_path):
    """The context is computed once for both orders; the two baselines compute it twice, one of them with padding."""
    save_tiny_judge(tmp_path / "judge", "llama", "llama3")
    flags = ("--model", str(tmp_path / "judge"), "--num_pairs", "4", "--batch_size", "2", "--profile", "400+50")
    monkeypatch.setattr(sys, "argv", ["both_orders.py", *flags, "--output", str(tmp_path / "out.json")])
    benchmark_module("both_orders").main()
    (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert result["pairs"] == 4 and result["max_difference_of_scores"] < 1e-4
    tokens = result["tokens"]
    assert tokens["ours"] < tokens["one_by_one"] < tokens["padded"]
    assert result["share_of_bound"] == pytest.approx(result["ratio"]["padded"] * tokens["ours"] / tokens["padded"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--turns", "2"], "--turns must be at least 3"),
        (["--batch_size", "3"], "--batch_size must be even"),
        (["--num_pairs", "1"], "--num_pairs must fill at least one batch"),
    ],
)
def test_scoring_refuses_what_would_measure_nothing(benchmark_module, monkeypatch, flags, message):
    monkeypatch.setattr(sys, "argv", ["scoring.py", *flags])
    with pytest.raises(UserError, match=message):
        benchmark_module("scoring").main()


def test_training_step_compares_the_same_pairs(benchmark_module, monkeypatch, tiny, tmp_path):
    output = tmp_path / "out.json"
    flags = ("--model", str(tiny), "--profile", "200+100", "--turns", "3", "--steps", "2", "--no_memory")
    monkeypatch.setattr(sys, "argv", ["train_step.py", *flags, "--output", str(output)])
    benchmark_module("train_step").main()
    (result,) = json.loads(output.read_text())["results"]
    assert result["timed_steps"] == 6, "three turns of two steps"
    assert result["share_of_bound"] == pytest.approx(result["ratio"] / result["bound"])
    assert 1.3 < result["bound"] < 2.5
    assert result["bound"] < result["bound_by_operations"], "TRL's attention is dense"


def test_work_by_hand(benchmark_module):
    """Shared: 3 tokens causally (6 pairs), then 2 that see 4 each. Padded rows: dense, unless equal."""
    operations = benchmark_module("operations")
    assert operations.packed_work([[[1, 2, 3], [1, 2, 4, 5]]]) == (5, 6 + 8)
    assert operations.padded_work([[2, 3], [4, 4]]) == (6 + 8, 2 * 9 + 2 * 10)


def test_operations_are_those_that_torch_counts(benchmark_module, tiny):
    """Eager attention multiplies every query with every key; norms and biases make up the rest."""
    operations = benchmark_module("operations")
    model = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.ones(1, 7, dtype=torch.long))
    assert operations.num_operations(model, (7, 7 * 7)) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_drawn_lengths_have_the_stated_mean(benchmark_module):
    profiles = benchmark_module("profiles")
    rng = random.Random(1)
    lengths = [profiles.draw_length(rng, 200) for _ in range(20_000)]
    assert sum(lengths) / len(lengths) == pytest.approx(200, rel=0.01)
    assert min(profiles.draw_length(rng, 1) for _ in range(100)) >= 1


def test_intervals_and_verdicts_of_claims(benchmark_module):
    """The 95 % t interval of 1, 2, 3 is 2 +- 4.3027 / sqrt(3); a claim holds when all of it is on the right side."""
    claims = benchmark_module("claims")
    mean, low, high = claims.interval([1.0, 2.0, 3.0])
    assert mean == 2 and high == pytest.approx(2 + 4.302653 / 3**0.5) and low == pytest.approx(4 - high)
    at_least, at_most = (claims.Claim("", "", side, 0.95) for side in (">=", "<="))
    assert claims.verdict(at_least, 0.95, 0.99) == "holds" == claims.verdict(at_most, 0.9, 0.95)
    assert claims.verdict(at_least, 0.94, 0.99) == "not shown" == claims.verdict(at_most, 0.94, 0.99)
    assert claims.verdict(at_least, 0.9, 0.94) == "fails" == claims.verdict(at_most, 0.96, 0.99)


SMALL_WORLDS = {
    "claims_armo": {
        "NUM_BACKBONE": 48,
        "NUM_RATED": 60,
        "NUM_TRAIN": 60,
        "NUM_REFERENCE": 60,
        "NUM_HELD_OUT": 60,
        "NUM_FRESH": 100,
        "GATE": {"learning_rate": 1e-3, "max_steps": 10, "batch_size": 32, "dropout": 0.2, "device": "cpu"},
    },
    "claims_bradley_terry": {"NUM_TRAIN": 24, "NUM_HELD_OUT": 30},
    "claims_math": {"NUM_PROBLEMS": 12, "NUM_HELD_OUT": 8, "NUM_CANDIDATES": 4, "TRAINING": {"num_train_epochs": 1}},
    "claims_odin": {"NUM_TRAIN": 40, "NUM_HELD_OUT": 60},
    "claims_pair_pm": {"NUM_TRAIN": 24, "NUM_HELD_OUT": 30},
    "claims_ssrm": {
        "NUM_LABELLED": 16,
        "NUM_UNLABELLED": 24,
        "NUM_HELD_OUT": 30,
        "PRESENTATIONS": 40,
        "THRESHOLD": 0.5,
    },
    "claims_rrm": {"NUM_TRAIN": 12, "NUM_HELD_OUT": 30, "EPOCHS": 1},
}


@pytest.mark.parametrize("name", SMALL_WORLDS)
def test_every_claim_is_about_a_number_that_is_measured(benchmark_module, monkeypatch, name):
    """The whole measurement, on a handful of pairs."""
    module = benchmark_module(name)
    for setting, value in SMALL_WORLDS[name].items():
        monkeypatch.setattr(module, setting, value)
    numbers = module.measure(100)
    assert {claim.number for claim in module.CLAIMS} <= numbers.keys()
    assert all(isinstance(value, float) and np.isfinite(value) for value in numbers.values())


def pair(prompt: str, chosen: str = "yes", rejected: str = "no", tokens: int = 1) -> dict:
    def chat(answer: str) -> list[dict]:
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]

    return {"chosen": chat(chosen), "rejected": chat(rejected), "tokens": tokens}


def test_real_data_samples_whole_prompts_within_the_budget(benchmark_module):
    real_rows = benchmark_module("real_rows")
    rows = [pair(f"prompt {i // 3}", tokens=10) for i in range(30)]
    sample = real_rows.sample_by_prompt(rows, 95, random.Random(0))
    prompts = [row["chosen"][0]["content"] for row in sample]
    assert len(sample) == 9 and all(prompts.count(prompt) == 3 for prompt in prompts)


def test_a_run_on_real_data_leaves_a_record_without_being_told(benchmark_module, monkeypatch, tmp_path):
    """Also where the folder of runs does not exist yet."""
    real_rows, machine = benchmark_module("real_rows"), benchmark_module("machine")
    monkeypatch.setattr(real_rows, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmarks/real_math.py"])
    output = Path(real_rows.sampling_parser("", max_tokens=1, max_length=1).parse_args([]).output)
    assert output.parent == tmp_path / "runs" and output.name.startswith("real_math-")
    machine.write_record(str(output), "abc", [{"n": 1}])
    assert json.loads(output.read_text())["results"] == [{"n": 1}]


def test_outcomes_by_source_by_hand(benchmark_module):
    """Margins 1, -1, 0 of hh, hh, rmb: right once in three; equal lengths count one half for the length rule."""
    real_data = benchmark_module("real_data")
    rows = [pair("a") | {"source": "hh_rlhf"}, pair("b") | {"source": "hh_rlhf"}, pair("c") | {"source": "rmb"}]
    margins = np.array([1.0, -1.0, 0.0])
    table = real_data.outcome_table({"reward model": margins, "longer answer wins": margins}, rows)
    accuracies = {name: [cell["accuracy"] for cell in parts.values()] for name, parts in table.items()}
    assert accuracies["reward model"] == pytest.approx([1 / 3, 1 / 2, 0])
    assert accuracies["longer answer wins"] == pytest.approx([1 / 2, 1 / 2, 1 / 2])
    assert [cell["pairs"] for cell in table["reward model"].values()] == [3, 2, 1]
    lead, low, high = real_data.lead_over_words({"reward model": margins, "bag of words": -margins}, rows)
    assert lead == 0 and low <= 0 <= high


def test_the_bag_of_words_learns_a_word(benchmark_module):
    real_data = benchmark_module("real_data")
    train = [pair(str(i), "a good day", "a bad day") for i in range(10)]
    margins = real_data.bag_of_words_margins(train, [pair("x", "bad", "good"), pair("y", "good", "bad")])
    assert margins[0] < 0 < margins[1] and margins[0] == pytest.approx(-margins[1])


def test_the_mixture_benchmark_finds_what_it_planted(tmp_path):
    """Every planted copy and evaluation prompt is dropped, and nothing else."""
    finished = run("mix.py", "--rows", "1500", "--num_proc", "1", "--output", str(tmp_path / "out.json"))
    assert finished.returncode == 0, finished.stderr
    (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
    planted, dropped = result["planted"], result["dropped"]
    assert min(planted.values()) > 0 and planted["new"] == result["rows_kept"]
    assert dropped["exact_duplicate"] == planted["exact"]
    # a near copy of a row with an evaluation prompt counts as contaminated
    assert dropped["in_evaluation_set"] >= planted["contaminated"]
    assert dropped["near_duplicate"] + dropped["in_evaluation_set"] == planted["near"] + planted["contaminated"]


def test_the_conversion_benchmark_converts_what_it_generates(tmp_path):
    flags = ("--rows", "400", "--rate_rows", "100", "--repeats", "1", "--output", str(tmp_path / "out.json"))
    finished = run("convert.py", *flags)
    assert finished.returncode == 0, finished.stderr
    rate, command = json.loads((tmp_path / "out.json").read_text())["results"]
    assert rate["pairs_per_second"] > 0 and command["peak_mib"] > 0
    assert 380 <= command["rows_kept"] <= 400  # less the planted copies


def test_real_numbers_of_pairs_and_ties_by_hand(benchmark_module):
    """Winners 0.9 and 0.2: one of two right. Ties at 0.5 and 0.45 are nearer to one half than both: told apart."""
    real_judged = benchmark_module("real_judged")
    rows = [pair("a"), pair("b"), pair("c") | {"tie": True, "label": 0.5}, pair("d") | {"tie": True, "label": 0.5}]
    numbers = real_judged.numbers_of(np.array([0.9, 0.2, 0.5, 0.45]), rows)
    assert (numbers["pairs"], numbers["ties"], numbers["accuracy"], numbers["ties_told_apart"]) == (2, 2, 0.5, 1.0)
    assert real_judged.numbers_of(np.array([0.5, 0.2]), rows[:2])["accuracy"] == 0.25  # undecided counts one half
    longer = real_judged.longer_wins([pair("a", "long answer", "no"), pair("b", "no", "yes"), pair("c", "no", "ok")])
    assert longer.tolist() == [1.0, 0.0, 0.5]


def test_hard_comparisons_of_rm_bench_have_the_richer_style_on_the_wrong_side(benchmark_module, tmp_path):
    real_looks = benchmark_module("real_looks")
    row = {"prompt": "p", "chosen": ["c0", "c1", "c2"], "rejected": ["r0", "r1", "r2"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    pairs = real_looks.hard_of_rm_bench(tmp_path / "rows.jsonl", 5, random.Random(0))
    answers = [(row["chosen"][-1]["content"], row["rejected"][-1]["content"]) for row in pairs]
    assert answers == [("c0", "r1"), ("c0", "r2"), ("c1", "r2")]


@pytest.mark.parametrize(
    "name", ["real_data", "real_pairwise", "real_ssrm", "real_rrm", "real_judge", "real_odin", "real_armo"]
)
def test_benchmarks_of_real_data_say_what_data_they_need(benchmark_module, monkeypatch, tmp_path, name):
    module = benchmark_module(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    monkeypatch.delenv("RM_DATA_DIR", raising=False)
    with pytest.raises(UserError, match="set RM_DATA_DIR to a folder that holds "):
        module.main()
    (tmp_path / "rmb").mkdir()
    monkeypatch.setenv("RM_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match="rewardbench_like$"):
        module.main()
