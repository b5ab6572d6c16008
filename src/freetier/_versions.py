"""What is said of a schema that is not the one this code was written for."""

from __future__ import annotations

from collections.abc import Sequence

from freetier.errors import SchemaError


def expect(found: int, wanted: int) -> None:
    """Raise `SchemaError`, naming both versions, unless they are the same."""
    if found != wanted:
        older = "it has not been migrated" if found < wanted else "this code is too old for it"
        raise SchemaError(
            f"the database has schema version {found}, this code needs {wanted}: {older}"
        )


def expect_no_drift(found: int, drifted: Sequence[str]) -> None:
    """Raise `SchemaError`, naming what differs, unless nothing does."""
    if drifted:
        raise SchemaError(
            f"schema version {found} is not as it was made; changed, missing or added: "
            + ", ".join(drifted)
        )
