"""Stage 1: which objectives are fitted, and what it warns of."""

import json
import shutil

import numpy as np
import pytest
from armo_commands import finished, run_script
from fit_objectives import constant_warnings, edge_warnings
from safetensors.numpy import load_file


def fitted(folder):
    names = [one["name"] for one in json.loads((folder / "objectives.json").read_text(encoding="utf-8"))["objectives"]]
    weights = load_file(folder / "objectives.safetensors")["regression_layer.weight"]
    return dict(zip(names, weights, strict=True))


def test_an_objective_that_is_left_out_changes_no_other(chain, tmp_path):
    everything = fitted(chain.objectives)
    some = sorted(everything)[:2]
    flags = ("--embeddings", chain.of_rated, "--output", tmp_path / "fit", "--leave_out", *some)
    finished("fit_objectives.py", *flags)
    fewer = fitted(tmp_path / "fit")
    assert set(fewer) == set(everything) - set(some)
    assert all(np.allclose(weights, everything[name], atol=1e-6) for name, weights in fewer.items())


@pytest.mark.parametrize(
    ("chosen", "message"), [(["nothing"], "--leave_out nothing: rated are"), (None, "leaves no objective to fit")]
)
def test_leaving_out_what_is_not_there_or_all_is_one_line(chain, tmp_path, chosen, message):
    flags = ("--embeddings", chain.of_rated, "--output", tmp_path / "fit", "--leave_out")
    done = run_script("fit_objectives.py", *flags, *(chosen or fitted(chain.objectives)))
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "fit").exists()


def test_a_rare_objective_is_named_with_the_way_out(chain, tmp_path):
    shutil.copytree(chain.of_rated, tmp_path / "rated")
    (first, *_) = sorted((tmp_path / "rated").glob("*.jsonl"))
    lines = first.read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[0])
    row["ratings"]["rare"], row["scales"]["rare"] = 1.0, [0, 1]
    first.write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n", encoding="utf-8")
    flags = ("--embeddings", tmp_path / "rated", "--output", tmp_path / "fit")
    done = run_script("fit_objectives.py", *flags)
    assert done.returncode == 2 and "'rare' has no rating" in done.stderr and "--leave_out it" in done.stderr
    finished("fit_objectives.py", *flags, "--leave_out", "rare")


def test_what_is_warned_of():
    assert edge_warnings(["a", "b", "c"], [1.0, 10.0, 100.0], [1.0, 10.0, 100.0]) == [
        "a: the best alpha, 1, is the smallest of --alphas; a better one may lie beyond",
        "c: the best alpha, 100, is the largest of --alphas; a better one may lie beyond",
    ]
    ratings = np.array([[0.5, 0.1], [np.nan, 0.2], [0.5, np.nan]])
    assert constant_warnings(["a", "b"], ratings) == [
        "a: all held-out ratings are the same, so that nothing says whether it is predicted"
    ]
