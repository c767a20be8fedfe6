"""Every method folder has the same shape, every config parses against its script, nothing imports across."""

import ast
import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from readmes import METHOD_FOLDERS, READMES, RECIPE_FOLDERS, ROOT, shell_blocks

from useful_code.converting.recipe import options_of, read_recipe
from useful_code.sources.table import SOURCES
from useful_code.tiny import save_tiny_judge

CONFIGS = [path for folder in METHOD_FOLDERS for path in sorted(folder.glob("*.yaml"))]
# What trains a decoder with the Trainer's options, Transformers' and TRL's.
RECIPES = [
    script
    for folder in METHOD_FOLDERS
    for script in sorted(folder.glob("train_*.py"))
    if "class TrainArguments(" in script.read_text(encoding="utf-8")
]
MIXTURES = sorted((ROOT / "configs" / "mixtures").glob("*.yaml"))
MODULES = sorted((ROOT / "useful_code").rglob("*.py"))
TORCH_FREE = (
    "chat_pairs",
    "rewardbench",
    "read_rows",
    "metrics",
    "user_errors",
    "known_truth.world",
    "convert_dataset",
    "mix_datasets",
    "inspect_dataset",
    "pair_prompt",
    "pair_probability",
    "response_rows",
    "training.checkpoints",
)


def imported_names(path: Path) -> set[str]:
    """Top-level names and modules of `useful_code` that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def recipe_of(folder: Path) -> Path:
    scripts = sorted(folder.glob("train_*.py"))
    assert scripts, f"{folder.name} has no train_*.py"
    return scripts[0]


def load(script: Path):
    sys.path.insert(0, str(script.parent))
    try:
        return __import__(script.stem)
    finally:
        sys.path.remove(str(script.parent))


def readme_commands() -> list[tuple[str, list[str]]]:
    """Commands of the README code blocks that start one of our Python scripts, with their words."""
    found = []
    for readme in READMES:
        for block in shell_blocks(readme):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if any(word.endswith(".py") for word in words):
                    found.append((f"{readme.parent.name}: {line.strip()[:70]}", words))
    return found


def recipe_flags(script: Path) -> set[str]:
    """Every flag that a recipe takes."""
    from trl import ModelConfig

    recipe = load(script)
    groups = (recipe.Arguments, recipe.TrainArguments, ModelConfig)
    return {"--config"} | {f"--{field.name}" for group in groups for field in dataclasses.fields(group)}


def test_the_loops_below_find_something():
    assert len(METHOD_FOLDERS) == 7, "count the method folders anew"
    assert len(RECIPE_FOLDERS) == 6 and len(RECIPES) == 7
    assert len(CONFIGS) == 20
    assert len(MIXTURES) == 4
    assert len(MODULES) >= 30
    assert len(readme_commands()) >= 8


@pytest.mark.parametrize("folder", METHOD_FOLDERS, ids=lambda path: path.name)
def test_every_method_folder_is_described_and_tested(folder):
    assert {"README.md", "requirements.txt", "zero3.json"} <= {path.name for path in folder.iterdir()}
    assert list(folder.glob("test_*.py")) and list(folder.glob("train_*.py"))
    reference = json.loads((ROOT / "configs" / "zero3.json").read_text())
    assert json.loads((folder / "zero3.json").read_text()) == reference


@pytest.mark.parametrize("folder", RECIPE_FOLDERS, ids=lambda path: path.name)
def test_every_recipe_folder_has_configs_of_the_trainer(folder):
    assert list(folder.glob("*.yaml"))


@pytest.mark.parametrize("folder", METHOD_FOLDERS, ids=lambda path: path.name)
def test_recipes_are_short_and_import_only_useful_code_and_packages(folder):
    siblings = {path.stem for path in ROOT.glob("*/*.py") if path.parent.name not in ("useful_code", folder.name)}
    for script in folder.glob("*.py"):
        assert len(script.read_text().splitlines()) < 300 or script.name.startswith("test_")
        assert not imported_names(script) & siblings


@pytest.mark.parametrize("script", RECIPES, ids=lambda path: path.stem)
def test_a_copied_folder_with_useful_code_inside_still_trains(script, tmp_path):
    """As the README says: the same imports work, and it is the copy that runs, not the installed package."""
    copy, folder = tmp_path / "mine", script.parent
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(folder, copy, ignore=ignored)
    shutil.copytree(ROOT / "useful_code", copy / "useful_code", ignore=ignored)
    with open(copy / "useful_code" / "__init__.py", "a", encoding="utf-8") as file:
        file.write("print('the copy runs')\n")
    save_tiny_judge(tmp_path / "tiny")
    rows = []
    for i in range(40):
        sides = ("chosen", "rejected")
        chat = [{"role": "user", "content": f"{i}?"}]
        pair = {side: [*chat, {"role": "assistant", "content": side}] for side in sides}
        solution = {"prompt": f"{i}?", "completions": ["a", "b"], "labels": [True, i % 2 == 0], "outcome": i % 2 == 0}
        rows.append(solution if folder.name == "math-rm" else pair)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, script.name, "--model_name_or_path", "../tiny", "--dataset", "../pairs.jsonl"]
        + ["--output_dir", "out", "--max_steps", "1", "--gradient_accumulation_steps", "1", "--held_out_share", "0.2"],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.startswith("the copy runs")
    assert (copy / "out" / "model.safetensors").exists() and (copy / "out" / "report.html").exists()


@pytest.mark.parametrize("module", MODULES, ids=module_name)
def test_useful_code_imports_no_recipe_and_stays_small(module):
    recipes = {path.stem for folder in METHOD_FOLDERS for path in folder.glob("*.py")}
    assert not imported_names(module) & recipes
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 300


def test_leaves_do_not_import_torch():
    """Directly or through each other: reading, converting and drawing data starts in a moment."""
    modules = [f"useful_code.{name}" for name in TORCH_FREE]
    heavy = "sorted({'torch', 'transformers', 'datasets', 'matplotlib'} & sys.modules.keys())"
    loaded = f"import sys, {', '.join(modules)}; print({heavy})"
    for script, found in ((loaded, "[]"), (f"import sys, torch; print({heavy})", "['torch']")):
        printed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        assert printed.stdout.strip() == found


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_config_parses_against_its_script(config, monkeypatch):
    from trl import ModelConfig

    from useful_code.training.arguments import parse_command_line

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    header = config.read_text(encoding="utf-8").split("\nmodel_name_or_path")[0]
    assert str(config.relative_to(ROOT)) in header, "the header shows a command with this very file"
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    for script in {ROOT / name for name in re.findall(r"[\w-]+/train_\w+\.py", header)} | {recipe_of(config.parent)}:
        recipe = load(script)
        arguments, train_arguments, model_arguments = parse_command_line(
            (recipe.Arguments, recipe.TrainArguments, ModelConfig), ["--config", str(config), "--dataset", "x.jsonl"]
        )
        assert model_arguments.model_name_or_path == values["model_name_or_path"]
        assert train_arguments.learning_rate == values["learning_rate"]
        assert arguments.max_length == values["max_length"]


@pytest.mark.parametrize("mixture", MIXTURES, ids=lambda path: path.name)
def test_every_mixture_is_a_recipe_whose_sources_give_pairs(mixture):
    recipe = read_recipe(mixture, {}, [])
    for ingredient in recipe.ingredients:
        assert SOURCES[ingredient.source].kind in ("pairs", "answers")
        options_of(ingredient, recipe.seed)
    header = mixture.read_text(encoding="utf-8").split("\nseed")[0]
    assert f"--config {mixture.relative_to(ROOT)}" in header, "the header shows a command with this very file"


@pytest.mark.parametrize(
    ("name", "words"), readme_commands(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_readme_commands_name_real_files_and_flags(name, words):
    script = next(word for word in words if word.endswith(".py"))
    path = ROOT / script
    assert path.exists(), script
    parts = [part for word in words for part in shlex.split(word)]  # a launcher is a command inside a word
    for part in parts:
        if part.endswith((".yaml", ".json")) and not part.startswith(("runs/", "pairs/")):
            assert (ROOT / part).exists(), part
    flags = {word for word in words[words.index(script) + 1 :] if word.startswith("--")}
    text = path.read_text(encoding="utf-8")
    for function, module in (
        ("add_model_arguments", "useful_code/scoring"),
        ("add_tie_argument", "useful_code/scoring"),
        ("add_row_arguments", "useful_code/response_rows"),
        ("add_data_arguments", "useful_code/rewardbench_rows"),
        ("add_judge_arguments", "useful_code/judging/options"),
        ("add_solution_arguments", "useful_code/step_scoring"),
        ("add_sampling_arguments", "math-rm/rollout_options"),
    ):
        if f"{function}(parser" in text:
            text += (ROOT / f"{module}.py").read_text(encoding="utf-8")
    known = set(re.findall(r'"(--[a-z0-9_]+)"', text))
    hands_on_the_rest = "parse_known_args()" in text  # to the recipe
    if path in RECIPES or (path.parent in RECIPE_FOLDERS and hands_on_the_rest):
        known |= recipe_flags(path if path in RECIPES else recipe_of(path.parent))
    assert flags <= known, f"{name}: unknown {sorted(flags - known)}"


def test_the_tree_in_the_readme_is_the_tree_on_disk():
    """Every file of useful_code and every method folder stands in the README's tree, and nothing else does."""
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("## The tree")[1]
    listed, folder = set(), ""
    for indent, name in re.findall(r"^( {2}| {4})([a-z_0-9]+(?:\.py|/))", tree, flags=re.MULTILINE):
        if name.endswith("/"):
            folder = name
        else:
            listed.add((folder if indent == "    " else "") + name)
    on_disk = {str(path.relative_to(ROOT / "useful_code")) for path in MODULES if path.name != "__init__.py"}
    assert listed == on_disk
    for folder in METHOD_FOLDERS:
        assert f"{folder.name}/" in tree
