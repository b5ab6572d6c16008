"""Programs from Debian's packages, in a folder: nothing is installed, and root is not needed.

`python -m tests.debian PROGRAM PACKAGE FOLDER` prints where the program lies then.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

APT_SETTINGS = """
Dir::State "{folder}";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "{folder}";
APT::Sandbox::User "";
Debug::NoLocking "true";
APT::Install-Recommends "false";
Acquire::Languages "none";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""
"""The system's sources, keys and list of what is installed; its own folder for all the rest."""


def program(name: str, package: str, into: Path) -> Path:
    """The program of the package: where that is installed, else extracted into the folder."""
    installed = _run(["dpkg-query", "--listfiles", package]).stdout.splitlines()
    found = _find(name, map(Path, installed)) or _find(
        name, extracted(package, into=into).rglob(name)
    )
    if found is None:
        raise RuntimeError(f"Debian's package {package} has no program {name}")
    return found


def _find(name: str, files: Iterable[Path]) -> Path | None:
    folders = ("bin", "sbin")
    return next((file for file in files if file.name == name and file.parent.name in folders), None)


def extracted(*packages: str, into: Path) -> Path:
    """The folder, with the files of the packages and of those they need that are not installed.

    Each lies as it would under `/`, for everyone to read. Raises `RuntimeError` where they cannot
    be downloaded.
    """
    into.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        settings = Path(folder, "apt.conf")
        settings.write_text(APT_SETTINGS.format(folder=folder), encoding="utf-8")
        apt = ["apt-get", "--quiet", "--config-file", str(settings)]
        updated = _run([*apt, "update"])
        got = _run([*apt, "install", "--download-only", "--reinstall", "--yes", *packages])
        files = sorted(Path(folder, "archives").glob("*.deb"))
        missing = {*packages} - {file.name.split("_")[0] for file in files}
        if got.returncode != 0 or missing:
            raise RuntimeError(
                f"apt-get could not download {', '.join(packages)}. "
                "Is Debian's package registry reachable from here? It said:\n"
                f"{updated.stderr}{got.stdout}{got.stderr}"
            )
        for file in files:
            subprocess.run(["dpkg", "--extract", file, into], check=True)
    return into


def library_path(folder: Path) -> str:
    """What `LD_LIBRARY_PATH` must be for the programs extracted into the folder."""
    return ":".join(
        str(found) for root in (folder, folder / "usr") for found in root.glob("lib/*-linux-*")
    )


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise RuntimeError(
            f"{command[0]} is not on this machine: only Debian, and what is made from it, "
            "has these packages"
        ) from None


if __name__ == "__main__":
    wanted, of_package, into_folder = sys.argv[1:]
    print(program(wanted, of_package, Path(into_folder)))
