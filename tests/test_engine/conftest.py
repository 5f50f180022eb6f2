"""Every run of these tests is small."""

import pytest


@pytest.fixture(scope='module', autouse=True)
def _quick(quick):
    """Nothing of it is seen by a test."""
