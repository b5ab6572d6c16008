"""A folder for servers, which with every server in it is gone when the tests are."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

KEEPER = """
cat  # ends with the tests, who hold the other end
for lock in "$1"/*/postmaster.pid; do
    [ -e "$lock" ] || continue
    read -r pid <"$lock"
    kill -QUIT "$pid" && kill -CONT "$pid"  # it may be frozen
    tries=0
    while [ -e "$lock" ] && [ $((tries += 1)) -le 200 ]; do sleep 0.05; done
done
rm -rf "$1"
"""
"""Waits, then stops every Postgres whose data lies in a folder in `$1`, and removes `$1`."""


@contextmanager
def kept_folder(parent: str) -> Iterator[Path]:
    """A new folder in `parent`, for its owner alone; a process of its own clears it away.

    So it happens also when the tests are killed.
    """
    folder = mkdtemp(prefix="freetier-", dir=parent)
    with subprocess.Popen(
        ["sh", "-c", KEEPER, "keeper", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what is sent to the tests' whole group does not reach it
    ):
        yield Path(folder)
