"""Debian's packages, used without being installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import postgres_programs
from tests.debian import extracted, library_path, program
from tests.kept_folder import kept_folder
from tests.postgres_server import server

pytestmark = pytest.mark.slow


def test_a_program_runs_from_a_folder(tmp_path: Path) -> None:
    """A package's programs run from a folder; one that is installed is put there all the same."""
    folder = extracted("pgbouncer", "hostname", into=tmp_path / "debian")
    assert [*folder.rglob("bin/hostname")]
    said = subprocess.run(
        [folder / "usr/sbin/pgbouncer", "--version"],
        check=True,
        capture_output=True,
        text=True,
        env={"LD_LIBRARY_PATH": library_path(folder)},
    )
    assert said.stdout.startswith("PgBouncer 1.")


def test_postgres_runs_from_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server runs from Debian's package, extracted, as another version than the wheel's."""
    with kept_folder("/tmp") as folder:
        extracted("postgresql-15", into=folder)
        monkeypatch.setenv(postgres_programs.GIVEN, str(folder / "usr/lib/postgresql/15/bin"))
        with server() as own:
            assert (own.version, own.bin.is_relative_to(folder)) == (15, True)


def test_what_is_installed_is_preferred(tmp_path: Path) -> None:
    """Nothing is downloaded for the program of a package that the system has."""
    assert program("dpkg", "dpkg", tmp_path / "debian") == Path("/usr/bin/dpkg")
    assert not (tmp_path / "debian").exists()


def test_no_way_to_the_packages_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the registry cannot be reached the error says so, and why."""
    config = tmp_path / "apt.conf"
    config.write_text('Acquire { http::Proxy "http://127.0.0.1:9"; Retries "0"; };')
    monkeypatch.setenv("APT_CONFIG", str(config))
    with pytest.raises(RuntimeError, match=r"registry reachable(?s:.*)127\.0\.0\.1:9"):
        extracted("pgbouncer", into=tmp_path / "debian")
