"""A real SLURM on this machine, and studies handed to it. Run by `make test-slurm`."""

import os
import shutil
import time
from pathlib import Path

import pytest
from sites import Cluster, Site


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.timeout(1500))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))):
        pytest.skip("SLURM is not installed here: apt-get install slurm-wlm munge")
    if os.geteuid():
        pytest.skip("the one-node SLURM must be started as root")
    cluster = Cluster(tmp_path_factory.mktemp("slurm") / "cluster", port=20000 + os.getpid() % 20000)
    begun = time.monotonic()
    cluster.script("up")
    assert time.monotonic() - begun < 30
    yield cluster
    cluster.script("down")


@pytest.fixture
def make_site(tmp_path, cluster):
    def make(folder=tmp_path):
        folder.mkdir(exist_ok=True)
        return Site(folder, cluster)

    return make
