"""The READMEs' commands, run as they stand in a fresh copy with a fresh virtual environment (`make test-all`).

Only what needs a hub is replaced (`REPLACED`, `ADDED`), and one threshold; commands for GPUs are parsed by the contract
test and left out here. Takes ten minutes or so; pip must reach a package index (`PIP_OPTIONS`, as in the Makefile).
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from readmes import ARMO, JUDGING, MATH, METHOD_FOLDERS, RECIPE_FOLDERS, ROOT, shell_blocks

ACTIVATE = ". .venv/bin/activate"
REPLACED = {
    "Anthropic/hh-rlhf": "input/hh.jsonl",  # hub name: local file of the same columns
    "nvidia/HelpSteer2": "input/helpsteer2_rated.jsonl",
    "Qwen/ProcessBench --split gsm8k": "input/processbench.jsonl",
    # Six labelled pairs make no model sure (0.50; 0.62 with fifteen times as many), and SSRM stops when it keeps none.
    "--threshold 0.6": "--threshold 0.5",
}
ADDED = {  # what is read from the hub otherwise
    "eval_reward_bench_bt.py": " --data_set_name input/rewardbench.jsonl",
    "eval_reward_bench_judge.py": " --data_set_name input/rewardbench.jsonl",
    "eval_reward_bench_pm.py": " --data_set_name input/rewardbench.jsonl",
    "mix_datasets.py": " --input hh_harmless=input/hh.jsonl helpsteer2=input/helpsteer2.jsonl math=input/math.jsonl"
    " allenai/reward-bench=input/rewardbench.jsonl",
}
CONVERT = "python useful_code/convert_dataset.py --source hh_rlhf --input input/hh.jsonl --output pairs/hh"
ON_A_GPU = ("configs/one_gpu.yaml", "configs/eight_gpu.yaml")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def block_with(readme: Path, text: str) -> str:
    (found,) = [block for block in shell_blocks(readme) if text in block]
    return found


def without_hub(commands: str) -> str:
    """The same commands on the stand-in rows, which are local files."""
    for text, stand_in in REPLACED.items():
        commands = commands.replace(text, stand_in)
    for script, flags in ADDED.items():
        commands = re.sub(rf"({script}(?:[^\n]*\\\n)*[^\n]*)", rf"\1{flags}", commands)
    return commands


def run(script: str, folder: Path) -> str:
    """Run a shell script that stops at its first error; returns what it printed."""
    options = os.environ.get("PIP_OPTIONS", "")
    script = re.sub(r"^pip install", f"pip install {options}", script, flags=re.MULTILINE)
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    finished = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert finished.returncode == 0, f"{script}\n{finished.stdout[-5000:]}"
    return finished.stdout


def copy_of_the_repository(folder: Path) -> Path:
    """Every file that a clone of the working tree would have."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A copy of the repository, set up by the README's commands for people without make, all but the last two."""
    folder = copy_of_the_repository(tmp_path_factory.mktemp("copy"))
    lines = block_with(ROOT / "README.md", "python3 -m venv").splitlines()
    set_up, rest = lines[:-2], lines[-2:]
    assert rest[0].startswith("python bradley-terry-rm/demo.py") and "pytest" in rest[1]
    run("\n".join(set_up), folder)
    return folder


def test_the_demo_learns(installed):
    """The demo ends with a model whose held-out accuracy is above chance with its whole interval."""
    printed = run(f"{ACTIVATE}\npython bradley-terry-rm/demo.py", installed)
    assert "The demo took" in printed
    record = json.loads((installed / "runs" / "demo" / "run.json").read_text(encoding="utf-8"))
    assert record["held_out"]["accuracy_interval"][0] > max(0.5, record["held_out_before"]["accuracy"])


def test_the_commands_of_the_main_readme(installed):
    """Convert, train, score, RewardBench, then the data section: each reads what the one before wrote."""
    write_inputs(installed)
    for text in ("--output scores.jsonl", "mix_datasets.py", "--source columns"):
        commands = block_with(ROOT / "README.md", text)
        run(f"{ACTIVATE}\n{without_hub(commands)}", installed)
    assert (installed / "runs" / "small" / "report.html").exists()
    assert "pairs/small/DATA_CARD.md" in (installed / "runs/look-small/report.html").read_text(encoding="utf-8")
    assert "40" in (installed / "pairs" / "mine" / "DATA_CARD.md").read_text(encoding="utf-8")
    scored = [json.loads(line) for line in (installed / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [len(row["scores"]) for row in scored] == [3, 1]
    assert "Score" in (installed / "bench_mark_eval.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", METHOD_FOLDERS, ids=lambda path: path.name)
def test_the_commands_of_every_method(folder, installed):
    """The commands for a laptop; those for GPUs and for an endpoint are left out."""
    write_inputs(installed)
    run(f"{ACTIVATE}\n{CONVERT}", installed)
    for block in shell_blocks(folder / "README.md"):
        if "--endpoint" in block:
            continue
        commands = without_hub(block).replace("\\\n", " ").splitlines()
        kept = [line for line in commands if not any(config in line for config in ON_A_GPU)]
        run("\n".join([ACTIVATE, *kept]), installed)


def test_the_commands_of_the_judge(installed):
    """The commands for a laptop; those for an endpoint are left out."""
    write_inputs(installed)
    local, remote = (block_with(JUDGING, text) for text in ("get_smollm2.py", "--endpoint"))
    assert local != remote
    commands = local
    for script, flags in ADDED.items():
        commands = re.sub(rf"({script}(?:[^\n]*\\\n)*[^\n]*)", rf"\1{flags}", commands)
    printed = run(f"{ACTIVATE}\n{commands}", installed)
    assert printed.count("cost: ") == 5 and "2 pairs written to runs/judged_pairs.jsonl" in printed
    assert "Note\tjudge: pairwise, logits" in (installed / "runs" / "bench.txt").read_text(encoding="utf-8")


def copy_with_requirements(folder: Path, tmp_path: Path) -> Path:
    """A copy of the repository with a clean environment of nothing but the requirements of the folder; tiny model."""
    copy = copy_of_the_repository(tmp_path)
    run(
        f"python3 -m venv .venv && {ACTIVATE}\n"
        "pip install -c constraints.txt torch\n"
        f"pip install -c constraints.txt -e . -r {folder.name}/requirements.txt\n"
        "pip check\n"
        'python -c \'from useful_code.tiny import save_tiny_judge; save_tiny_judge("tiny", "llama", "llama3")\'\n',
        copy,
    )
    write_inputs(copy)
    return copy


@pytest.mark.parametrize("folder", [folder for folder in RECIPE_FOLDERS if folder != MATH], ids=lambda path: path.name)
def test_every_requirements_file_is_enough(folder, tmp_path):
    """In that environment the script of the folder trains and reports."""
    copy = copy_with_requirements(folder, tmp_path)
    (script,) = folder.glob("train_*.py")
    run(f"{ACTIVATE}\npython {folder.name}/{script.name} --help > help.txt", copy)
    assert "--model_name_or_path" in (copy / "help.txt").read_text(encoding="utf-8")
    run(
        f"{ACTIVATE}\n{CONVERT}\n"
        f"python {folder.name}/{script.name} --model_name_or_path tiny --dataset pairs/hh --output_dir out "
        "--gradient_accumulation_steps 1 --report_to none",
        copy,
    )
    assert (copy / "out" / "report.html").exists()


def test_the_requirements_of_armo_are_enough(tmp_path):
    """In that environment all its commands for a laptop run, on a tiny model."""
    copy = copy_with_requirements(ARMO, tmp_path)
    commands = without_hub(block_with(ARMO / "README.md", "fit_objectives.py")).replace("\\\n", " ")
    commands = (
        commands.replace("models/smollm2-135m", "tiny").replace("_gating.py", "_gating.py --max_steps 20").splitlines()
    )
    kept = [line for line in commands if "get_smollm2" not in line and not any(file in line for file in ON_A_GPU)]
    run("\n".join([ACTIVATE, CONVERT, *kept]), copy)
    assert (copy / "runs" / "armo" / "why" / "report.html").exists()


def test_the_requirements_of_math_are_enough(tmp_path):
    """In that environment all its commands for a laptop run, on a tiny model that gets nothing right."""
    copy = copy_with_requirements(MATH, tmp_path)
    commands = without_hub(block_with(MATH / "README.md", "get_smollm2.py")).replace("\\\n", " ")
    commands = commands.replace("models/smollm2-135m", "tiny").replace(
        "--config math-rm/smollm2-135m.yaml",
        "--model_name_or_path tiny --gradient_accumulation_steps 1 --held_out_share 0.25",
    )
    kept = [line for line in commands.splitlines() if "get_smollm2" not in line]
    run("\n".join([ACTIVATE, *kept]), copy)
    for name in ("prm", "orm", "best-of-n-prm", "best-of-n-orm", "errors"):
        assert (copy / "runs" / name / "report.html").exists()


def word_problems(numbers: range) -> list[dict]:
    """Problems that a small model gets right now and then."""
    return [
        {"prompt": f"Tom has {i} apples and buys {i + 2} more. How many apples has he now?", "answer": str(2 * i + 2)}
        for i in numbers
    ]


def wrong_steps(number: int) -> dict:
    """A solution with a mark on its first wrong step, or with none, in the columns of ProcessBench."""
    step = number % 3 - 1  # -1: every step is right
    lines = [f"{number} and 2 are {number + 2 + (step == 0)}.", "That is all of them.", "This is the answer."]
    return {
        "id": f"gsm8k-{number}",
        "problem": f"What is {number} plus 2?",
        "steps": lines[: number % 2 + 2],
        "label": step,
        "final_answer_correct": step == -1,
    }


def write_inputs(folder: Path) -> None:
    """Files in the shape of the hub data sets, and rows to score."""
    transcripts = [
        {
            "chosen": f"\n\nHuman: What is {i} plus one?\n\nAssistant: It is {i + 1}.",
            "rejected": f"\n\nHuman: What is {i} plus one?\n\nAssistant: I do not know {i}.",
        }
        for i in range(40)
    ]
    table = [
        {
            "id": i,
            "subset": subset,
            "prompt": f"Name {i} things.",
            "chosen": "one, two",
            "chosen_model": "a",
            "rejected": "no",
            "rejected_model": "b",
        }
        for i, subset in enumerate(["alpacaeval-easy", "llmbar-natural", "donotanswer", "math-prm"])
    ]
    rows = [{"prompt": "2 + 2?", "responses": ["4", "5", "four"]}, {"prompt": "Hello", "responses": ["Hi."]}]
    helpsteer = [
        {"prompt": f"Write {i} lines.", "response_1": "a line", "response_2": f"{i} lines", "preference_strength": 3}
        for i in range(40)
    ]
    attributes = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    rated = [
        {"prompt": f"Count to {i}.", "response": "one " * j} | dict.fromkeys(attributes, j)
        for i in range(40)
        for j in range(1, 5)
    ]
    answers = ("chosen_response", "rejected_response", "chosen_rating", "rejected_rating")
    mathematics = [
        {"instruction": f"{i} times two?"} | dict(zip(answers, (str(2 * i), str(2 * i + 1), 9, 5), strict=True))
        for i in range(40)
    ]
    (folder / "input").mkdir(exist_ok=True)
    lines = "".join(f'"What, exactly, is {i}?",{i} is a number,{i} is a letter\n' for i in range(40))
    (folder / "mine.csv").write_text(f"question,good,bad\n{lines}", encoding="utf-8")
    for path, content in (
        ("input/hh", transcripts),
        ("input/helpsteer2", helpsteer),
        ("input/helpsteer2_rated", rated),
        ("input/math", mathematics),
        ("input/rewardbench", table),
        ("input/processbench", [wrong_steps(i) for i in range(12)]),
        ("problems", word_problems(range(3, 15))),
        ("test_problems", word_problems(range(15, 21))),
        ("rows", rows),
    ):
        text = "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{path}.jsonl").write_text(text, encoding="utf-8")
