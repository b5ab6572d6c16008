"""The file in which `freetier verify` notes how far a ledger is proved."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

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
        with TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.") as folder:
            whole = Path(folder) / path.name
            whole.write_text(f"{checkpoint}\n", "utf-8")
            whole.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from error
