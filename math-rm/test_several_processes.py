"""Two processes equal one: DDP, ZeRO-3 and FSDP2 on a CPU, through `accelerate launch`. Minutes."""

import pytest
import torch
from math_examples import LORA, launch, make_world
from safetensors.torch import load_file

RUNS = {
    "verdicts": ("train_prm.py", ()),
    "tags": ("train_prm.py", ("--form", "tags")),
    "tags_lora": ("train_prm.py", ("--form", "tags", *LORA)),
    "outcome": ("train_orm.py", ()),
    "scalar": ("train_orm.py", ("--form", "scalar")),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("processes"))


@pytest.fixture(scope="module")
def single(world):
    """The run of one process, made when it is first asked for."""
    made: dict[str, dict] = {}

    def run(name: str) -> dict:
        if name not in made:
            script, flags = RUNS[name]
            made[name] = launch(script, world, "single process", name, *flags)
        return made[name]

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "DDP") for name in RUNS),
        *((name, kind) for name in ("verdicts", "tags", "scalar") for kind in ("ZeRO-3", "FSDP2")),
    ],
)
def test_two_real_processes_equal_one(world, single, name, kind):
    """The same losses, though the two halves of a batch have other numbers of steps: their mean is over all steps of
    all processes. The saved weights are the same, and they give the trained model's numbers."""
    script, flags = RUNS[name]
    expected, output = single(name), f"{name}_{kind}"
    record = launch(script, world, kind, output, *flags, "--score_before", "true")
    assert record["parallelism"] == kind and record["num_processes"] == 2
    assert record["losses"] == pytest.approx(expected["losses"], rel=1e-4) and len(record["losses"]) == 4
    assert record["reload_difference"] < 1e-4
    assert record["held_out"]["loss"] == pytest.approx(expected["held_out"]["loss"], rel=1e-3)
    one, two = (load_file(world / each / "model.safetensors") for each in (name, output))
    assert one.keys() == two.keys()
    # Adam divides by the size of a gradient: where it is nearly 0, rounding decides the direction of a step.
    differences = torch.cat([(one[key] - two[key]).abs().flatten() for key in one])
    assert differences.median() < 1e-5 and (differences < 1e-3).float().mean() > 0.99


@pytest.mark.slow
def test_two_processes_with_batches_of_unequal_size(world):
    """Batches filled by tokens: a process may have more solutions than the other, and neither waits for ever."""
    record = launch("train_prm.py", world, "DDP", "tokens", "--max_tokens_per_batch", "500")
    assert len(record["losses"]) == 4 and record["reload_difference"] < 1e-4
