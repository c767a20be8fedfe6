"""For the tests of this folder: its commands as a user starts them."""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def run_script(name, *flags):
    """A command of this folder, as a user starts it."""
    command = [sys.executable, str(FOLDER / name), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True)


def finished(name, *flags):
    done = run_script(name, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
