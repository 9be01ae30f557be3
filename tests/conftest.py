"""No test is timed: how long an example takes is the machine's affair."""

import pytest
from hypothesis import settings
from nursery import Nursery

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def nursery():
    """Starts processes that have torch loaded already."""
    nursery = Nursery()
    yield nursery
    nursery.close()
