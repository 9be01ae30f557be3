"""A real SLURM on this machine, and studies handed to it. Run by `make test-slurm`."""

import contextlib
import os
import shutil
import socket
from pathlib import Path

import pytest
from sites import Cluster, Site


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.timeout(2400))


def free_ports():
    """The first of twenty ports in a row, below those that the system gives out, that nobody listens on."""
    for port in range(20000 + os.getpid() % 5000, 32000, 20):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for offset in range(20):
                stack.enter_context(socket.create_server(("127.0.0.1", port + offset)))
            return port
    pytest.skip("no twenty ports in a row are free for the one-node SLURM")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))):
        pytest.skip("SLURM is not installed here: apt-get install slurm-wlm munge")
    if os.geteuid():
        pytest.skip("the one-node SLURM must be started as root")
    cluster = Cluster(tmp_path_factory.mktemp("slurm") / "cluster", port=free_ports())
    cluster.script("up")
    yield cluster
    cluster.script("down")


@pytest.fixture
def make_site(tmp_path, cluster):
    def make(folder=tmp_path):
        folder.mkdir(exist_ok=True)
        return Site(folder, cluster)

    return make
