"""Every reply of a judge on disk, so that no question is asked twice: not after a kill, not by another process.

SQLite in write-ahead mode: several processes of one machine may read and write at the same time. Not for network disks.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from useful_code.judging.interface import Reply
from useful_code.user_errors import UserError, first_line


def key_of(*facts: Any) -> str:
    """A hash of everything that a reply depends on.

    >>> key_of("judge", {"a": 1, "b": 2}) == key_of("judge", {"b": 2, "a": 1}) != key_of("other", {"a": 1, "b": 2})
    True
    """
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode("ascii"), digest_size=16).hexdigest()


class ReplyCache:
    """Replies by key. The first reply to a question stays.

    >>> import tempfile
    >>> cache = ReplyCache(Path(tempfile.mkdtemp()) / "cache.sqlite")
    >>> cache.keep("key", Reply("[[A]]")).text, cache.keep("key", Reply("[[B]]")).text
    ('[[A]]', '[[A]]')
    >>> sorted(cache.find(["key", "other"]))
    ['key']
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=60, isolation_level=None)  # seconds; autocommit
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")  # survives a kill of the process
            self._database.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            reason = first_line(error)
            raise UserError(
                f"--cache {path} cannot be used ({reason}); give a file of its own on a local disk"
            ) from error

    def find(self, keys: Iterable[str]) -> dict[str, Reply]:
        """The replies that are there."""
        found = {}
        for key in keys:
            row = self._run("SELECT reply FROM replies WHERE key = ?", key).fetchone()
            if row:
                found[key] = Reply(**json.loads(row[0]))
        return found

    def keep(self, key: str, reply: Reply) -> Reply:
        """Store a reply; returns the one that stands, which another process may have stored before."""
        content = json.dumps(reply._asdict())
        self._run("INSERT OR IGNORE INTO replies VALUES (?, ?)", key, content)
        return self.find([key])[key]

    def _run(self, command: str, *values: str) -> sqlite3.Cursor:
        try:
            return self._database.execute(command, values)
        except sqlite3.Error as error:  # a full disk, or a lock that is never given back
            raise UserError(f"--cache {self.path}: {first_line(error)}; earlier replies are kept there") from error

    def close(self) -> None:
        self._database.close()
