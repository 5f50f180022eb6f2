"""The images that the sources of own_data.py name, and an output folder."""

import pytest
from own_data import make_images


@pytest.fixture
def root(tmp_path):
    return make_images(tmp_path / 'src')


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'
