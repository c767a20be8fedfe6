"""What only a GPU can show: the FlashAttention path, bfloat16, and every recipe by its command for one GPU.

    python -m pytest -m gpu

Not run by default, and skipped where there is no CUDA device.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_shared_prefix import pair_loss, random_groups
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from useful_code import prefix_attention
from useful_code.reward_model import prepare_reward_model
from useful_code.scoring import Scorer, score_groups
from useful_code.shared_prefix import pack, pad
from useful_code.tiny import save_tiny_judge, tiny_reward_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device that this run may see"),
]
ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = ["llama", "gemma", "qwen3", "gemma3_text"]  # the last slides a window of 16
PAIR_RECIPES = {
    "bradley-terry-rm/train_bradley_terry.py": AutoModelForSequenceClassification,
    "pair-pm/train_pair_pm.py": AutoModelForCausalLM,
    "ssrm/train_ssrm.py": AutoModelForCausalLM,
    "rrm/train_rrm.py": AutoModelForCausalLM,
    "odin-rm/train_odin.py": AutoModelForSequenceClassification,
}


def on_gpu(batch: dict) -> dict:
    return {name: value.cuda() if torch.is_tensor(value) else value for name, value in batch.items()}


def shared_model(architecture: str):
    model = tiny_reward_model(architecture, 100, seed=1)
    prepare_reward_model(model)
    return model.cuda()


def rewards_and_gradient(model, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    rewards = model(**on_gpu(batch)).logits[:, 0].float()
    pair_loss(rewards).backward()
    return rewards.detach(), torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("autocast", [False, True], ids=["bfloat16 weights", "autocast"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_flash_attention_call_is_as_near_to_float32_as_padded_batches(architecture, autocast, monkeypatch):
    """Rewards and gradients in bfloat16, against padded batches in float32."""
    calls = []
    varlen = prefix_attention.varlen_attn
    monkeypatch.setattr(prefix_attention, "varlen_attn", lambda *a, **k: calls.append(1) or varlen(*a, **k))
    model = shared_model(architecture)
    groups = [group[:1] * 2 if len(group) < 2 else group[:2] for group in random_groups(seed=3, num_groups=6)]
    rewards, gradient = rewards_and_gradient(model, pad(groups, 0))
    assert not calls
    if not autocast:
        model.to(torch.bfloat16)
    distances = []
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        for batch in (pad(groups, 0), pack(groups, "varlen")):
            found, slope = rewards_and_gradient(model, batch)
            distances.append(((found - rewards).norm() / rewards.norm(), (slope - gradient).norm() / gradient.norm()))
    assert len(calls) == model.config.num_hidden_layers
    for of_padded, of_varlen in zip(*distances, strict=True):
        assert of_varlen < 1.5 * of_padded + 1e-3 and of_varlen < 0.1, distances


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_on_a_gpu_gives_the_rewards_and_gradients_of_padded_batches(architecture):
    model = shared_model(architecture)
    groups = [group[:2] for group in random_groups(seed=3, num_groups=9) if len(group) > 1]
    rewards, gradient = rewards_and_gradient(model, pack(groups, "varlen"))  # falls back to segments
    padded_rewards, padded_gradient = rewards_and_gradient(model, pad(groups, 0))
    torch.testing.assert_close(rewards, padded_rewards, atol=1e-6, rtol=1e-5)
    assert (gradient - padded_gradient).norm() < 1e-5 * padded_gradient.norm()


def test_scores_in_bfloat16_lie_near_those_in_float32_and_do_not_depend_on_the_batch():
    model = shared_model("gemma").eval()
    groups = random_groups(seed=5, num_groups=12)

    def scores(max_tokens: int) -> torch.Tensor:
        found: dict[int, list] = {}
        for indices, numbers in score_groups(Scorer(model, None, 0, "", max_tokens), groups):
            found |= dict(zip(indices, numbers, strict=True))
        return torch.tensor([row[0] for index in sorted(found) for row in found[index]])

    exact = scores(400)
    torch.testing.assert_close(scores(100), exact, atol=1e-6, rtol=1e-5)
    model.to(torch.bfloat16)
    spread = exact.std()
    assert (scores(400) - exact).abs().max() < 0.1 * spread
    assert (scores(100) - scores(400)).abs().max() < 0.1 * spread


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A tiny model with heads of 16 channels, and pairs that it can learn: the shouted answer wins."""
    folder = tmp_path_factory.mktemp("gpu")
    save_tiny_judge(folder / "model", "llama", "llama3", hidden_size=64)
    rows = [{"chosen": said(i, f"{i}!!!"), "rejected": said(i, f"{i}...")} for i in range(160)]
    write_rows(folder / "pairs.jsonl", rows)
    write_rows(folder / "steps.jsonl", [solution(i, is_right) for i in range(80) for is_right in (True, False)])
    candidates = [{"steps": solution(0, right)["completions"], "correct": right} for right in (True, False)]
    write_rows(folder / "candidates.jsonl", [{"prompt": f"Say {i}", "candidates": candidates} for i in range(40)])
    return folder


def solution(i: int, is_right: bool) -> dict:
    """Two steps; the second one, and with it the outcome, is right when it shouts."""
    steps, labels = ["one!!!", "two!!!" if is_right else "two..."], [True, is_right]
    return {"prompt": f"Say {i}", "completions": steps, "labels": labels, "outcome": is_right}


def said(i: int, answer: str) -> list[dict]:
    return [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": answer}]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(command: list) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def finished(script: str, *flags) -> None:
    """A command of the repository, as a user starts it, well ended."""
    run([sys.executable, ROOT / script, *flags])


ONE_GPU = ("--config_file", str(ROOT / "configs" / "one_gpu.yaml"))
ONE_OF_EIGHT = ("--config_file", str(ROOT / "configs" / "eight_gpu.yaml"), "--num_processes", "1")


def train(
    world: Path, recipe: str, output: str, *flags: str, launch: tuple[str, ...] = ONE_GPU, rows: str = "pairs.jsonl"
) -> dict:
    """The user's command; the record that it leaves."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", *launch),
        *(str(ROOT / recipe), "--model_name_or_path", str(world / "model"), "--dataset", str(world / rows)),
        *("--output_dir", str(world / output), "--held_out_share", "0.2", "--learning_rate", "5e-3"),
        *("--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1", "--max_steps", "120", *flags),
    ]
    run(command)
    return json.loads((world / output / "run.json").read_text())


@pytest.mark.parametrize("recipe", PAIR_RECIPES)
def test_a_recipe_trains_on_one_gpu_and_plain_transformers_reads_the_result(world, recipe):
    """In bfloat16 over float32 weights: what is saved is float32, and gives its own scores again."""
    output = Path(recipe).parent.name
    record = train(world, recipe, output, "--save_strategy", "no")
    assert record["hardware"]["gpus"] and record["hardware"]["peak_gpu_memory_gib"] > 0
    assert record["held_out"]["accuracy"] >= 0.9
    saved = PAIR_RECIPES[recipe].from_pretrained(world / output)
    assert saved.dtype == torch.float32


@pytest.mark.parametrize(
    ("script", "form"),
    [("train_prm", "verdicts"), ("train_prm", "tags"), ("train_orm", "verdicts"), ("train_orm", "scalar")],
)
def test_solutions_train_on_one_gpu_and_the_better_one_is_chosen(world, script, form):
    """In bfloat16 over float32 weights, and chosen among two in bfloat16."""
    output = f"{script}-{form}"
    flags = ("--form", form, "--save_strategy", "no")
    record = train(world, f"math-rm/{script}.py", output, *flags, rows="steps.jsonl")
    assert record["hardware"]["gpus"] and record["held_out"]["accuracy"] >= 0.9
    files = ("--dataset", world / "candidates.jsonl", "--output_dir", world / f"{output}-best")
    finished("math-rm/best_of_n.py", "--reward_name_or_path", world / output, *files)
    curves = json.loads((world / f"{output}-best" / "curves.json").read_text())["curves"]
    assert curves["pass@1"]["accuracy"][-1] == 0.5 and curves["best of N, last"]["accuracy"][-1] >= 0.9


def test_zero3_on_a_gpu(world):
    recipe, zero3 = "bradley-terry-rm/train_bradley_terry.py", ROOT / "bradley-terry-rm" / "zero3.json"
    flags = ("--deepspeed", str(zero3), "--save_strategy", "no")
    record = train(world, recipe, "zero3", *flags, launch=ONE_OF_EIGHT)
    assert record["parallelism"] == "ZeRO-3" and record["held_out"]["accuracy"] >= 0.9
    # DeepSpeed keeps float32 weights in its optimizer, and trains and saves their bfloat16 copies.
    assert AutoModelForSequenceClassification.from_pretrained(world / "zero3").dtype == torch.bfloat16


def test_armorm_from_rows_to_one_directory_on_a_gpu(world, tmp_path):
    """Embeddings in bfloat16, gate trained on the GPU; the scores in bfloat16 lie near those in float32."""
    scales = {"loudness": [0, 4], "verbosity": [0, 4]}
    rated = [
        {"messages": chat, "ratings": {"loudness": rating, "verbosity": i % 5}, "scales": scales}
        for i in range(80)
        for chat, rating in ((said(i, f"{i}!!!"), 4), (said(i, f"{i}..."), 0))
    ]
    write_rows(tmp_path / "rated.jsonl", rated)
    decoder = ("--model_name_or_path", world / "model")
    of_rated, of_pairs, objectives, gate, model = (
        tmp_path / name for name in ("rated", "pairs", "fit", "gate", "armo")
    )
    finished("armo-rm/extract_embeddings.py", *decoder, "--input", tmp_path / "rated.jsonl", "--output", of_rated)
    finished("armo-rm/extract_embeddings.py", *decoder, "--input", world / "pairs.jsonl", "--output", of_pairs)
    finished("armo-rm/fit_objectives.py", "--embeddings", of_rated, "--output", objectives)
    stages = ("--objectives", objectives, "--embeddings", of_pairs, "--max_steps", 200)
    finished("armo-rm/train_gating.py", *stages, "--output", gate)
    finished("armo-rm/export_armorm.py", "--gate", gate, "--output", model)
    scores = []
    for dtype in ("float32", "bfloat16"):
        files = ("--input", world / "pairs.jsonl", "--output", tmp_path / f"{dtype}.jsonl")
        finished("useful_code/score.py", "--reward_name_or_path", model, "--dtype", dtype, *files)
        lines = (tmp_path / f"{dtype}.jsonl").read_text(encoding="utf-8").splitlines()
        scores.append(torch.tensor([json.loads(line)["scores"] for line in lines]))  # (N, 2)
    exact, rounded = scores
    assert (exact[:, 0] > exact[:, 1]).float().mean() >= 0.9
    assert (rounded - exact).abs().mean() < 0.1 * exact.std()


@pytest.mark.parametrize("kind", ["bradley-terry-rm", "odin-rm", "pair-pm"])
def test_the_evaluation_command_runs_on_what_was_trained(world, kind):
    """Run after the tests above, it judges their models: the shouted answers win, in bfloat16 too."""
    recipe = next(recipe for recipe in PAIR_RECIPES if recipe.startswith(kind))
    if not (world / kind / "config.json").exists():
        train(world, recipe, kind, "--save_strategy", "no")
    row = {"subset": "alpacaeval-easy", "chosen_model": "a", "rejected_model": "b"}
    rows = [row | {"id": i, "prompt": f"Say {i}", "chosen": f"{i}!!!", "rejected": f"{i}..."} for i in range(40)]
    write_rows(world / "bench.jsonl", rows)
    files = ("--data_set_name", world / "bench.jsonl", "--record_dir", world / f"{kind}.txt")
    script = f"useful_code/eval_reward_bench_{'pm' if kind == 'pair-pm' else 'bt'}.py"
    finished(script, "--reward_name_or_path", world / kind, *files)
    record = json.loads((world / f"{kind}.json").read_text())
    assert record["alpacaeval-easy"] >= 0.9
