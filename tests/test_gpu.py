"""What only a GPU can show: the FlexAttention path, bfloat16, and every recipe by its command for one GPU.

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
from torch._dynamo.utils import counters
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
ARCHITECTURES = ["llama", "gemma", "qwen3", "gemma3_text"]  # the first has heads too small for FlexAttention
PAIR_RECIPES = {
    "bradley-terry-rm/train_bradley_terry.py": AutoModelForSequenceClassification,
    "pair-pm/train_pair_pm.py": AutoModelForCausalLM,
    "ssrm/train_ssrm.py": AutoModelForCausalLM,
    "rrm/train_rrm.py": AutoModelForCausalLM,
}


def on_gpu(batch: dict) -> dict:
    return {name: value.cuda() if torch.is_tensor(value) else value for name, value in batch.items()}


def shared_model(architecture: str):
    model = tiny_reward_model(architecture, 100, seed=1)
    prepare_reward_model(model)
    return model.cuda()


def rewards_and_gradient(model, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    rewards = model(**on_gpu(batch)).logits[:, 0]
    pair_loss(rewards).backward()
    return rewards.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_flex_gives_the_rewards_and_gradients_of_padded_batches(architecture):
    model = shared_model(architecture)
    groups = [group[:1] * 2 if len(group) < 2 else group[:2] for group in random_groups(seed=3, num_groups=6)]
    rewards, gradient = rewards_and_gradient(model, pack(groups, "flex"))
    padded_rewards, padded_gradient = rewards_and_gradient(model, pad(groups, 0))
    torch.testing.assert_close(rewards, padded_rewards, atol=1e-6, rtol=1e-5)
    assert (gradient - padded_gradient).norm() < 1e-5 * padded_gradient.norm()


def test_rows_of_other_lengths_compile_nothing_new():
    model = shared_model("gemma")
    compiled = []
    for seed in range(8):
        rewards_and_gradient(
            model, pack([group[:2] for group in random_groups(seed, num_groups=4) if len(group) > 1], "flex")
        )
        compiled.append(counters["stats"]["unique_graphs"])
    assert compiled[-1] == compiled[2] > 0


def test_the_block_mask_of_a_long_row_takes_little_memory():
    """A table of 16,000 by 16,000 truth values alone would be 244 MiB."""
    layout = pack([[[5] * 2000, [5] * 1000 + [6] * 1000]] * 6, "flex")["layout"]
    prefix_attention._block_mask.cache_clear()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    prefix_attention._block_mask(layout, None, torch.device("cuda", 0))
    assert torch.cuda.max_memory_allocated() - before < 32 * 2**20


def test_scores_in_bfloat16_lie_near_those_in_float32_and_do_not_depend_on_the_batch():
    model = shared_model("gemma").eval()
    groups = random_groups(seed=5, num_groups=12)

    def scores(max_tokens: int) -> torch.Tensor:
        found = {}
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

    def chat(i: int, answer: str) -> list[dict]:
        return [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": answer}]

    rows = [{"chosen": chat(i, f"{i}!!!"), "rejected": chat(i, f"{i}...")} for i in range(160)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


ONE_GPU = ("--config_file", str(ROOT / "configs" / "one_gpu.yaml"))
ONE_OF_EIGHT = ("--config_file", str(ROOT / "configs" / "eight_gpu.yaml"), "--num_processes", "1")


def train(world: Path, recipe: str, output: str, *flags: str, launch: tuple[str, ...] = ONE_GPU) -> dict:
    """The user's command; the record that it leaves."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", *launch),
        *(str(ROOT / recipe), "--model_name_or_path", str(world / "model"), "--dataset", str(world / "pairs.jsonl")),
        *("--output_dir", str(world / output), "--held_out_share", "0.2", "--learning_rate", "5e-3"),
        *("--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1", "--max_steps", "120", *flags),
    ]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=world)
    assert finished.returncode == 0, finished.stderr[-4000:]
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


def test_zero3_on_a_gpu(world):
    recipe, zero3 = "bradley-terry-rm/train_bradley_terry.py", ROOT / "bradley-terry-rm" / "zero3.json"
    flags = ("--deepspeed", str(zero3), "--save_strategy", "no")
    record = train(world, recipe, "zero3", *flags, launch=ONE_OF_EIGHT)
    assert record["parallelism"] == "ZeRO-3" and record["held_out"]["accuracy"] >= 0.9
    assert AutoModelForSequenceClassification.from_pretrained(world / "zero3").dtype == torch.float32


@pytest.mark.parametrize("kind", ["bradley-terry-rm", "pair-pm"])
def test_the_evaluation_command_runs_on_what_was_trained(world, kind):
    """Run after the tests above, it judges their models: the shouted answers win, in bfloat16 too."""
    recipe = next(recipe for recipe in PAIR_RECIPES if recipe.startswith(kind))
    if not (world / kind / "config.json").exists():
        train(world, recipe, kind, "--save_strategy", "no")
    row = {"subset": "alpacaeval-easy", "chosen_model": "a", "rejected_model": "b"}
    rows = [row | {"id": i, "prompt": f"Say {i}", "chosen": f"{i}!!!", "rejected": f"{i}..."} for i in range(40)]
    (world / "bench.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    script = ROOT / "useful_code" / f"eval_reward_bench_{'bt' if kind == 'bradley-terry-rm' else 'pm'}.py"
    command = [sys.executable, str(script), "--reward_name_or_path", str(world / kind)]
    command += ["--data_set_name", str(world / "bench.jsonl"), "--record_dir", str(world / f"{kind}.txt")]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=world)
    assert finished.returncode == 0, finished.stderr[-4000:]
    record = json.loads((world / f"{kind}.json").read_text())
    assert record["subsets"]["alpacaeval-easy"]["accuracy"] >= 0.9
