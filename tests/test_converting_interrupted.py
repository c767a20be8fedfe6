"""A conversion that is killed at any moment: the old output stays whole, and the same command ends in the same bytes.

The commands are killed from outside, when their work folder shows how far they are; and, to meet every moment, from
inside: an audit hook counts what Python does to files below the output and sends SIGKILL before the n-th of it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from useful_code import convert_dataset
from useful_code.converting.parts import PART_GROUPS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks and sends signals")
COMMAND = [sys.executable, convert_dataset.__file__]
ONCE = 120  # seconds after which a process that hangs is killed


def hh_row(number):
    return {
        "chosen": f"\n\nHuman: Q{number}\n\nAssistant: good",
        "rejected": f"\n\nHuman: Q{number}\n\nAssistant: bad",
    }


def safety_row(number):
    return {"prompt": f"Q{number % 70}", "response": f"answer {number}", "is_safe": number % 9 < 4}


def write_lines(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def visible(folder):
    """The files of an output, without its work folder and half-written ones that a kill left."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def states(work):
    """The files of finished parts with what changes when one is written again."""
    finished = [path.name.removesuffix(".json") for path in work.glob("part-*.json")]
    files = [path for stem in finished for path in work.glob(f"{stem}.*")]
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino, path.stat().st_size) for path in files}


# A process that forks one conversion after the other, so that the imports are paid once. The parent runs no threads.
SWEEP = """
import json, os, signal, sys, traceback
import pyarrow, tqdm
from useful_code import convert_dataset
from useful_code.converting import choice, grouping, parts, statistics

parts.PART_GROUPS = 30
choice.NUM_BUCKETS = grouping.NUM_BUCKETS = 4  # fewer moments, and faster
statistics.LONGEST = 1000
pyarrow.RecordBatch.from_pylist([{"warm": "up"}])  # imports what it needs, too
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}

def convert(output, die_at, log, arguments):
    moments = []

    def hook(event, args):
        if event not in CHANGES or not isinstance(args[0], (str, os.PathLike)):
            return
        path = os.fspath(args[0])
        if not path.startswith(output) or (event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        moments.append(event + " " + path[len(output):].lstrip("/"))
        if die_at == len(moments) - 1 or die_at == moments[-1]:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.argv = ["convert_dataset.py", *arguments, "--output", output]
    sys.stderr = open(log + ".stderr", "w")
    sys.stdout = open(os.devnull, "w")
    sys.addaudithook(hook)
    convert_dataset.main()
    with open(log, "w") as file:
        json.dump(moments, file)
    sys.stderr.flush()

for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if child == 0:
        try:
            convert(**task)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Sweep:
    def __init__(self, folder, arguments):
        self.folder, self.arguments, self.process = folder, arguments, None

    def __enter__(self):
        command = [sys.executable, "-W", "ignore", "-c", SWEEP]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.watchdog = threading.Timer(10 * ONCE, self.process.kill)
        self.watchdog.start()
        return self

    def __exit__(self, *_):
        self.process.communicate()
        self.watchdog.cancel()

    def convert(self, output, die_at=None):
        """Returns what it did to files, or None if it was killed; and what it said."""
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        task = {"output": str(output), "die_at": die_at, "log": str(log), "arguments": self.arguments}
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        status = self.process.stdout.readline().strip()
        said = Path(f"{log}.stderr").read_text()
        assert status == ("0" if die_at is None else str(-signal.SIGKILL)), said
        return (json.loads(log.read_text()) if die_at is None else None), said


def one_of_every_kind(moments):
    """From the middle of all moments that do the same to the same kind of file."""
    places = {}
    for place, moment in enumerate(moments):
        places.setdefault(re.sub(r"\d+", "0", moment), []).append(place)
    return sorted(same[len(same) // 2] for same in places.values())


def kill_at_moments(tmp_path, source, choose):
    """Convert over an older output, be killed at a moment, and go on; for all moments that `choose` takes."""
    row = hh_row if source == "hh_rlhf" else safety_row
    raw = write_lines(tmp_path / "raw.jsonl", [row(number) for number in (*range(30), *range(70, 100))])
    arguments = ["--source", source, "--input", str(raw), "--max_pairs_per_prompt", "2", "--format", "jsonl"]
    with Sweep(tmp_path, arguments) as sweep:
        sweep.convert(tmp_path / "old")
        old = visible(tmp_path / "old")
        write_lines(raw, [*map(row, range(140)), {}, row(3), {"chosen": row(9).get("rejected"), "rejected": "x"}])
        shutil.copytree(tmp_path / "old", tmp_path / "new")
        moments, _ = sweep.convert(tmp_path / "new")
        new = visible(tmp_path / "new")
        num_parts = len(list((tmp_path / "new").glob("train-*")))
        assert num_parts >= 3 and old["card.json"] != new["card.json"] and len(moments) > 60
        for moment in choose(moments):
            what, output = moments[moment], tmp_path / f"killed-{moment}"
            shutil.copytree(tmp_path / "old", output)
            sweep.convert(output, moment)
            now, work = visible(output), output / ".unfinished"
            assert now in (old, new) or "card.json" not in now, f"{what}: neither whole nor marked as not whole"
            finished = states(work)
            if finished and now == old and not (work / "reasons").exists():  # killed again, before rows are chosen
                sweep.convert(output, "open .unfinished/bucket-00")
                assert finished.items() <= states(work).items(), f"{what}: a finished part was made again"
                assert visible(output) == old
                assert len(list(work.glob("part-*.json"))) == num_parts
            _, said = sweep.convert(output)
            assert ("already made" if now == new else "") in said
            assert visible(output) == new, f"{what}: other bytes"
            assert {path.name for path in output.iterdir()} == new.keys(), f"{what}: something is left"
            shutil.rmtree(output)


def test_killed_at_a_moment_of_every_kind_it_ends_in_the_same_bytes(tmp_path):
    kill_at_moments(tmp_path, "beavertails", one_of_every_kind)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["hh_rlhf", "beavertails"])
def test_killed_at_any_moment_it_ends_in_the_same_bytes(tmp_path, source):
    kill_at_moments(tmp_path, source, lambda moments: range(len(moments)))


class Running:
    """The real command, in a group of processes of its own, as a terminal starts it."""

    def __init__(self, raw, output, *flags):
        command = [*COMMAND, "--source", "hh_rlhf", "--input", str(raw), "--output", str(output), *flags]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, start_new_session=True, **pipes)
        self.work = output / ".unfinished"

    def wait_for(self, seen):
        """Until `seen(work folder)` is true."""
        end = time.monotonic() + ONCE
        while not seen(self.work):
            assert self.process.poll() is None, f"it ended too early: {self.process.stderr.read()}"
            assert time.monotonic() < end, "it hangs"
            time.sleep(0.002)
        return self

    def stop(self, how):
        os.killpg(self.process.pid, how)
        return self.end()

    def end(self):
        _, errors = self.process.communicate(timeout=ONCE)
        return self.process.returncode, errors


def has(name):
    return lambda work: (work / name).exists()


def is_in_the_middle_of_the_first_part(work):
    digests = work / "part-00000.digests"
    return digests.exists() and digests.stat().st_size > 0


def test_the_real_command_goes_on_after_ctrl_c_and_kills(tmp_path):
    raw, output = write_lines(tmp_path / "raw.jsonl", map(hh_row, range(20))), tmp_path / "out"
    assert Running(raw, output).end() == (0, "")
    old = visible(output)
    write_lines(raw, map(hh_row, range(PART_GROUPS + 4000)))
    undisturbed = Running(raw, tmp_path / "undisturbed")
    status, said = Running(raw, output).wait_for(is_in_the_middle_of_the_first_part).stop(signal.SIGINT)
    assert (status, said) == (130, f"{output}: the same command goes on where this one stopped\ninterrupted\n")
    assert visible(output) == old
    status, said = Running(raw, output).wait_for(has("part-00000.json")).stop(signal.SIGKILL)
    assert (status, said) == (-signal.SIGKILL, f"{output}: going on after 0 finished parts\n")
    assert visible(output) == old
    finished = states(output / ".unfinished")
    assert len(finished) >= 4
    status, said = Running(raw, output).wait_for(has("reasons")).stop(signal.SIGKILL)
    assert (status, said.startswith(f"{output}: going on after 1 finished part\n")) == (-signal.SIGKILL, True)
    assert finished.items() <= states(output / ".unfinished").items()
    assert visible(output) == old or "card.json" not in visible(output)
    assert Running(raw, output).end() == (0, f"{output}: going on after 2 finished parts\n")
    assert undisturbed.end() == (0, "")
    assert visible(output) == visible(tmp_path / "undisturbed") and len(visible(output)) == 6
    assert not (output / ".unfinished").exists()


@pytest.mark.slow
def test_the_real_command_with_several_processes_goes_on_after_kills(tmp_path):
    raw = write_lines(tmp_path / "raw.jsonl", map(hh_row, range(3 * PART_GROUPS)))
    finished = {}
    for part in range(3):
        process = Running(raw, tmp_path / "out", "--num_proc", "2").wait_for(has(f"part-{part:05d}.json"))
        _, said = process.stop(signal.SIGKILL)
        assert f"going on after {part} finished part" in said or part == 0
        now = states(tmp_path / "out" / ".unfinished")
        assert finished.items() <= now.items()
        finished = now
    assert Running(raw, tmp_path / "out", "--num_proc", "2").end()[0] == 0
    assert Running(raw, tmp_path / "fresh").end() == (0, "")
    assert visible(tmp_path / "out") == visible(tmp_path / "fresh")


def workers_of(pid):
    """The processes that `pid` started to convert, once they no longer hear Ctrl-C."""
    workers = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        folder = Path("/proc", child)
        ignored = int(re.search(r"SigIgn:\s*(\w+)", (folder / "status").read_text())[1], 16)
        if b"spawn_main" in (folder / "cmdline").read_bytes() and ignored >> (signal.SIGINT - 1) & 1:
            workers.append(folder)
    return workers


@pytest.mark.parametrize("seconds", [0.2, 0.5, 0.8])
def test_ctrl_c_while_the_processes_start_is_as_quiet(tmp_path, seconds):
    raw = write_lines(tmp_path / "raw.jsonl", map(hh_row, range(PART_GROUPS)))
    process = Running(raw, tmp_path / "out", "--num_proc", "2").wait_for(has("made_from"))
    time.sleep(seconds)
    how_to_go_on = f"{tmp_path / 'out'}: the same command goes on where this one stopped\n"
    assert process.stop(signal.SIGINT) == (130, how_to_go_on + "interrupted\n")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at /proc")
def test_ctrl_c_with_several_processes_is_as_quiet_and_leaves_none_behind(tmp_path):
    raw = write_lines(tmp_path / "raw.jsonl", map(hh_row, range(PART_GROUPS)))
    process = Running(raw, tmp_path / "out", "--num_proc", "2")
    process.wait_for(
        lambda work: is_in_the_middle_of_the_first_part(work) and len(workers_of(process.process.pid)) == 2
    )
    workers = workers_of(process.process.pid)
    status, said = process.stop(signal.SIGINT)
    how_to_go_on = f"{tmp_path / 'out'}: the same command goes on where this one stopped\n"
    assert (status, said) == (130, how_to_go_on + "interrupted\n")
    assert not any(worker.exists() for worker in workers)
