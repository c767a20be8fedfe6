"""One small chain from rows to an exported directory, by the commands of the README, for the tests of this folder."""

from types import SimpleNamespace

import pytest
from armo_commands import finished, write_rows

from useful_code.known_truth.rated import make_rated
from useful_code.known_truth.world import World, make_pairs
from useful_code.tiny import save_tiny_judge

WORLD = World(families=("facts", "format", "safety"))


@pytest.fixture(scope="session")
def chain(tmp_path_factory):
    """Paths of everything that the chain reads and writes, and what its commands printed."""
    folder = tmp_path_factory.mktemp("armo")
    decoder = folder / "decoder"
    save_tiny_judge(decoder)
    rated = write_rows(folder / "rated.jsonl", make_rated(WORLD, 200, seed=0))
    pairs = [pair | {"subset": pair["truth"]["family"]} for pair in make_pairs(WORLD, 80, seed=0)]
    pairs = write_rows(folder / "pairs.jsonl", [*pairs, {"chosen": "no chat"}])
    said = {}
    for rows in (rated, pairs):
        flags = ("--model_name_or_path", decoder, "--input", rows, "--output", folder / f"of_{rows.stem}")
        said[rows.stem] = finished("extract_embeddings.py", *flags, "--rows_per_part", 64)
    objectives, gate, model, tree = (folder / name for name in ("objectives", "gate", "model", "tree"))
    of_pairs = ("--embeddings", folder / "of_pairs")
    said["objectives"] = finished("fit_objectives.py", "--embeddings", folder / "of_rated", "--output", objectives)
    short = ("--max_steps", 60, "--gating_hidden_dim", 16, "--batch_size", 64)
    said["gate"] = finished("train_gating.py", "--objectives", objectives, *of_pairs, "--output", gate, *short)
    said["model"] = finished("export_armorm.py", "--gate", gate, "--output", model)
    said["tree"] = finished("fit_tree.py", "--objectives", objectives, *of_pairs, "--output", tree, "--min_rows", 10)
    return SimpleNamespace(
        folder=folder, decoder=decoder, rated=rated, pairs=pairs, of_rated=folder / "of_rated",
        of_pairs=folder / "of_pairs", objectives=objectives, gate=gate, model=model, tree=tree, said=said,
    )  # fmt: skip
