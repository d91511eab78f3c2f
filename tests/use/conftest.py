"""A model file that all tests of a module share."""

import pytest

from tests.use.models import model_file, small_model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A model file."""
    return model_file(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(path):
    return small_model(path)
