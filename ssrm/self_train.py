r"""Semi-supervised reward modelling: label what the model is sure about, train on it, repeat (SSRM, arXiv 2409.06903).

    python ssrm/self_train.py --labelled pairs/hh-ssrm/labelled.jsonl --unlabelled pairs/hh-ssrm/unlabelled.jsonl \
        --output_dir runs/ssrm --rounds 2 --config ssrm/smollm2-135m.yaml
    python ssrm/self_train.py --launcher "accelerate launch --config_file configs/eight_gpu.yaml" \
        --labelled ... --unlabelled ... --output_dir runs/ssrm --config ssrm/gemma-2b.yaml --deepspeed ssrm/zero3.json

    pi_0 = train on D_l                                      D_l labelled pairs, D_u pairs without a label
    round t = 1..T:   D_t  = D_l and {(x, winner, loser) of D_u : confidence of pi_(t-1) > threshold}
                      pi_t = train on D_t, from the base model                                      (METHODS 3.4)

Every stage is a command of its own, run one after the other: `pseudo_label.py` with the model of the last round, then
the recipe, `train_ssrm.py` or with `--recipe bradley-terry-rm/train_bradley_terry.py` the scalar model. Flags that are
not listed below go to the recipe. This script never sees a label of the unlabelled data: there is no flag for one.

    <output_dir>/held_out.jsonl      labelled pairs of a share of the prompts, or --eval_dataset
    <output_dir>/round-<t>/          train.jsonl, pseudo/ (t > 0), model/
    <output_dir>/report.html         after every round (`report_rounds.py` makes it anew, with audit labels too)

Stopped at any point, the same command goes on with the stage that was not finished; what was made of other data or
other options is never mixed in. A stage that is done anew undoes the rounds after it.
"""

import argparse
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from useful_code.atomic_write import write_atomically
from useful_code.chat_pairs import check_pair, is_held_out, prompt_key, prompt_of
from useful_code.converting.inputs import describe_inputs, input_files, sha256_of
from useful_code.converting.work import only_run
from useful_code.read_rows import load_checked, report_counts
from useful_code.training.checkpoints import is_whole, list_checkpoints
from useful_code.user_errors import UserError, exit_cleanly

HERE = Path(__file__).parent
# What changes no result, or may change from one start to the next.
NOT_IN_PLAN = ("rounds", "launcher", "output_dir", "score_tokens_per_batch", "labelled", "unlabelled", "eval_dataset")


def write_rows(path: Path, rows: list[dict[str, Any]], more: Path | None = None) -> int:
    """`rows`, then the lines of the file `more`, all at once; returns how many rows that are."""
    partial = path.with_name(f"{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    number = len(rows)
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, default=str) + "\n")
        if more is not None:
            for line in more.open(encoding="utf-8"):
                file.write(line)
                number += 1
    partial.replace(path)
    return number


def split_labelled(arguments: argparse.Namespace, output: Path) -> tuple[list[dict], list[dict]]:
    """The labelled rows to train on in every round, and those that no round may train on."""
    labelled, counts = load_checked(arguments.labelled, check_pair, output / "refused_labelled_rows.jsonl")
    print(report_counts(counts))
    held_out: list[dict] = []
    if arguments.eval_dataset:
        held_out, counts = load_checked(arguments.eval_dataset, check_pair, output / "refused_eval_rows.jsonl")
        print(report_counts(counts))
    else:
        rows, labelled = labelled, []
        for row in rows:
            # Not the hash of the prompt alone: a former split of the same seed went by that.
            key = "self-training " + prompt_key(prompt_of(row))
            side = held_out if is_held_out(key, arguments.held_out_share, arguments.split_seed) else labelled
            side.append(row)
    if not labelled or not held_out:
        raise UserError(
            f"{len(labelled)} labelled rows to train on and {len(held_out)} held out: give more, or an --eval_dataset"
        )
    return labelled, held_out


def check_plan(output: Path, arguments: argparse.Namespace, recipe_flags: list[str]) -> None:
    """Write what this run is made of, or make sure that the run to go on with is made of the same.

    Data and options of the method must be the same once there is a plan; the recipe and its flags (a smaller batch,
    say) once a round is trained.
    """
    plan = {name: value for name, value in vars(arguments).items() if name not in NOT_IN_PLAN}
    for name in ("labelled", "unlabelled", "eval_dataset"):
        inputs = [getattr(arguments, name)] if getattr(arguments, name) else []
        plan[name] = describe_inputs(inputs, input_files(inputs), None)
    config = flag_of("config", recipe_flags)
    plan["recipe_flags"] = recipe_flags
    plan["recipe_config"] = sha256_of(Path(config)) if config and Path(config).is_file() else None
    path = output / "plan.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        of_recipe = () if (output / "round-0" / "trained").exists() else ("recipe", "recipe_flags", "recipe_config")
        names = (plan.keys() | before.keys()) - set(of_recipe)
        differing = sorted(name for name in names if plan.get(name) != before.get(name))
        if differing:
            raise UserError(
                f"{output} was begun with another {', '.join(differing)}: use the same, or another --output_dir"
            )
    write_atomically(path, json.dumps(plan, indent=1) + "\n")


def flag_of(name: str, recipe_flags: list[str]) -> Any:
    """The value of a flag of the recipe: on the command line, else in its --config, else None."""
    for place, flag in enumerate(recipe_flags):
        if flag == f"--{name}":
            value = recipe_flags[place + 1] if place + 1 < len(recipe_flags) else "true"
            return "true" if value.startswith("--") else value
        if flag.startswith(f"--{name}="):
            return flag.split("=", 1)[1]
    config = flag_of("config", recipe_flags) if name != "config" else None
    if config and Path(config).is_file():
        return (yaml.safe_load(Path(config).read_text(encoding="utf-8")) or {}).get(name)
    return None


def run_stage(name: str, command: list[str]) -> None:
    """Run a command to its end. Raises UserError when it fails; its own message stands above.

    What ends this script ends the stage first: two of them must never write to one folder.
    """
    print(f"\n--- {name}\n$ {shlex.join(command)}", flush=True)
    started_at = time.time()
    stage = subprocess.Popen(command)

    def leave(number, frame) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        status = stage.wait()
    except KeyboardInterrupt:
        stage.wait()  # it was interrupted too
        raise
    except SystemExit:
        stage.terminate()
        stage.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if status in (130, -signal.SIGINT):
        raise KeyboardInterrupt
    if status != 0:
        raise UserError(f"{name} failed (status {status}); mend it and run the same command again: it goes on here")
    print(f"--- {name}: {(time.time() - started_at) / 60:.1f} minutes", flush=True)


def undo_after(number: int, output: Path) -> None:
    """What later rounds were made of has changed: forget that they were done."""
    for folder in output.glob("round-*"):
        if int(folder.name.removeprefix("round-")) > number:
            (folder / "trained").unlink(missing_ok=True)
            (folder / "pseudo" / "card.json").unlink(missing_ok=True)
            shutil.rmtree(folder / "model", ignore_errors=True)


def pseudo_label(number: int, output: Path, arguments: argparse.Namespace, recipe_flags: list[str]) -> None:
    """Label D_u with the model of the last round."""
    folder = output / f"round-{number}" / "pseudo"
    if not (folder / "card.json").exists():
        undo_after(number - 1, output)
        command = [*shlex.split(arguments.launcher), str(HERE / "pseudo_label.py")]
        command += ["--reward_name_or_path", str(output / f"round-{number - 1}" / "model")]
        command += ["--unlabelled", arguments.unlabelled, "--output", str(folder)]
        command += ["--threshold", str(arguments.threshold), "--temperature", str(arguments.temperature)]
        command += ["--max_tokens_per_batch", str(arguments.score_tokens_per_batch)]
        for name in ("max_length", "chat_template_path"):  # as in training: what it would drop is not labelled
            value = flag_of(name, recipe_flags)
            command += [f"--{name}", str(value)] if value is not None else []
        if str(flag_of("trust_remote_code", recipe_flags)).lower() == "true":
            command += ["--trust_remote_code"]
        command += ["--orders_must_agree"] if arguments.orders_must_agree else []
        command += ["--soft_labels"] if arguments.soft_labels else []
        run_stage(f"round {number}: pseudo-labels", command)
    if not json.loads((folder / "card.json").read_text(encoding="utf-8"))["kept"]:
        raise UserError(
            f"round {number} kept no row: no confidence of round {number - 1}'s model is over --threshold "
            f"{arguments.threshold}. Lower it in another --output_dir, or give more labelled rows"
        )


def train(number: int, output: Path, rows: list[dict], arguments: argparse.Namespace, recipe_flags: list[str]) -> None:
    """One run of the recipe on the rows of the round, resumed from its last checkpoint where there is a whole one."""
    folder = output / f"round-{number}"
    if (folder / "trained").exists():
        return
    undo_after(number, output)
    total = write_rows(folder / "train.jsonl", rows, folder / "pseudo" / "pairs.jsonl" if number else None)
    print(f"round {number}: {len(rows):,} labelled and {total - len(rows):,} pseudo-labelled rows")
    command = [*shlex.split(arguments.launcher), arguments.recipe, *recipe_flags]
    command += ["--dataset", str(folder / "train.jsonl"), "--eval_dataset", str(output / "held_out.jsonl")]
    command += ["--output_dir", str(folder / "model")]
    if number and arguments.start_from == "previous":
        command += ["--model_name_or_path", str(output / f"round-{number - 1}" / "model")]
    checkpoints = list_checkpoints(folder / "model")
    if any(map(is_whole, checkpoints)):
        command += ["--resume_from_checkpoint", "true"]
    else:
        for cut_off in checkpoints:  # the run was stopped while it wrote its first one
            print(f"{cut_off} was cut off while it was written and is removed")
            shutil.rmtree(cut_off)
    run_stage(f"round {number}: training", command)
    write_atomically(folder / "trained", shlex.join(command) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--labelled", required=True, help="D_l: checked pairs, a file, a folder or a hub data set.")
    add("--unlabelled", required=True, help="D_u: rows {id, prompt, responses: [a1, a2]} without any label.")
    add("--output_dir", required=True, help="Folder of all rounds.")
    add("--rounds", type=int, default=1, help="Times to pseudo-label and train; may be raised later.")
    add("--threshold", type=float, default=0.8, help="Confidence that a pseudo-labelled pair must be over.")
    add("--start_from", choices=["base", "previous"], default="base", help="What each round's training starts from.")
    add("--eval_dataset", default=None, help="Held-out labelled pairs; no round trains on their prompts.")
    add("--held_out_share", type=float, default=0.1, help="Of the labelled prompts, where there is no --eval_dataset.")
    add("--split_seed", type=int, default=0, help="Of that split.")
    add("--temperature", type=float, default=1.0, help="Divides the log-odds before the threshold.")
    add("--orders_must_agree", action="store_true", help="Drop pseudo-labels whose winner depends on the order.")
    add("--soft_labels", action="store_true", help="Train on the confidence instead of a sure winner.")
    add("--score_tokens_per_batch", type=int, default=8192, help="Tokens of a forward pass while labelling.")
    add("--recipe", default=str(HERE / "train_ssrm.py"), help="The training script of every round.")
    add("--launcher", default=sys.executable, help='What starts the stages, for example "accelerate launch ...".')
    arguments, recipe_flags = parser.parse_known_args()
    reserved = [flag for flag in recipe_flags if flag.split("=")[0] in ("--dataset", "--resume_from_checkpoint")]
    if reserved:
        raise UserError(f"{reserved[0]} is set by every round; leave it out")
    if arguments.rounds < 1 or not 0 < arguments.held_out_share < 1 or not 0.5 <= arguments.threshold < 1:
        raise UserError("--rounds must be at least 1, --held_out_share in (0, 1), --threshold at least 0.5 and below 1")
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    with only_run(output):
        run_rounds(output, arguments, recipe_flags)


def run_rounds(output: Path, arguments: argparse.Namespace, recipe_flags: list[str]) -> None:
    """Every stage of every round, those that are done already left out."""
    labelled, held_out = split_labelled(arguments, output)
    check_plan(output, arguments, recipe_flags)
    write_rows(output / "held_out.jsonl", held_out)
    try:
        for number in range(arguments.rounds + 1):
            if number:
                pseudo_label(number, output, arguments, recipe_flags)
            train(number, output, labelled, arguments, recipe_flags)
            report = [sys.executable, str(HERE / "report_rounds.py"), "--output_dir", str(output)]
            run_stage(f"round {number}: report", report)
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on with what is in {output}", file=sys.stderr)
        raise
    print(f"the last model is {output / f'round-{arguments.rounds}' / 'model'}")


if __name__ == "__main__":
    exit_cleanly(main)
