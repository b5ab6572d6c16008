"""The file in which `freetier verify` notes how far a ledger is proved."""

from __future__ import annotations

from pathlib import Path
from tempfile import NamedTemporaryFile

from freetier.checkpoint import Checkpoint, parse_checkpoint
from freetier.errors import ConfigError


def read_checkpoint(path: Path) -> Checkpoint | None:
    """What the file says; None if there is none yet. Raises `InvalidInput`, `ConfigError`."""
    try:
        return parse_checkpoint(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Put it in the place of the earlier one, whole. Raises `ConfigError`."""
    try:
        with NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f"{path.name}.", delete=False
        ) as file:
            file.write(f"{checkpoint}\n")
        Path(file.name).replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from error
