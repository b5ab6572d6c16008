"""The test-kit: hold a store to the port's promises, and a policy to its laws.

Needs the extra `testing` (pytest, hypothesis).
"""

import pytest

pytest.register_assert_rewrite("freetier.testing.contract", "freetier.testing.laws")

from freetier.testing import strategies  # noqa: E402 - after the line that makes failures readable
from freetier.testing.async_contract import AsyncRepositoryContract  # noqa: E402
from freetier.testing.clock import Clock  # noqa: E402
from freetier.testing.contract import RepositoryContract  # noqa: E402
from freetier.testing.laws import assert_policy_laws  # noqa: E402

__all__ = [
    "AsyncRepositoryContract",
    "Clock",
    "RepositoryContract",
    "assert_policy_laws",
    "strategies",
]
