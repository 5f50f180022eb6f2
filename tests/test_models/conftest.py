"""Fixtures of the tests of the models."""

import pytest
from mmengine.logging import MMLogger


@pytest.fixture
def quiet():
    """Without MMEngine's log of every parameter's initialisation."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    yield
    logger.setLevel(level)
