"""For the tests of this folder: its commands as a user starts them."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from useful_code.user_errors import exit_cleanly

FOLDER = Path(__file__).parent


def run_script(name, *flags):
    """A command of this folder, as a user starts it."""
    command = [sys.executable, str(FOLDER / name), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True)


def finished(name, *flags):
    done = run_script(name, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def refused_here(monkeypatch, capsys, name, *flags):
    """The one line with which a command of this folder, in this process, refuses what it is given."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
    with pytest.raises(SystemExit) as stopped:
        exit_cleanly(importlib.import_module(name.removesuffix(".py")).main)
    assert stopped.value.code == 2
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert last_line.startswith("error: ")
    return last_line


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
