"""Networks of torchvision, as large as they must be and no larger."""

import pytest
import torch
from torch import nn

from tiebreak.auditing import audit
from tiebreak.exact.certificate import Label

models = pytest.importorskip("torchvision").models


def small_head(net, width):
    """Its convolutions and pools are what is audited; linear layers of 100 million numbers are not."""
    net.classifier = nn.Linear(width, 3)
    return net


def inception():
    """One block of GoogLeNet, whose fourth branch is a pool, between two more."""
    googlenet = pytest.importorskip("torchvision.models.googlenet")  # the name is a function in its package
    block = googlenet.Inception(8, 4, 4, 4, 4, 4, 4)
    head = (nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 3))
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), block, *head)


def vgg():
    net = models.VGG(models.vgg.make_layers([8, "M", 16, "M", 16, 16, "M"]), init_weights=False)
    net.avgpool = nn.Identity()
    return small_head(net, 256)


NETWORKS = {
    "alexnet": (lambda: small_head(models.alexnet(), 9216), 63, ["features.2", "features.5", "features.12"]),
    "vgg": (vgg, 32, ["features.2", "features.5", "features.10"]),
    "resnet": (
        lambda: models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3),
        32,
        ["maxpool"],
    ),
    "densenet": (
        lambda: models.DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=3),
        32,
        ["features.pool0"],
    ),
    "inception": (inception, 16, ["2", "3.branch4.0", "4"]),
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_pool_is_found_with_its_line(name):
    make, size, paths = NETWORKS[name]
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net, images = make().eval(), torch.rand(2, 3, size, size)
    images[:, :, :12] = 0.5
    found = audit(net, (images, torch.tensor([0, 2])), certify=name in ("densenet", "vgg", "inception"))
    (section,) = found.sections
    assert [layer.where.module for layer in section.layers] == paths
    files = [layer.where.file for layer in section.layers]
    in_torchvision = [file is not None and file.startswith("torchvision/models/") for file in files]
    assert in_torchvision == [name != "inception" or "branch" in path for path in paths]
    assert found.left == ()
    assert section.widest.relative < 1e-5
    if section.evidence is not None:
        assert section.label in (Label.REGULAR, Label.COMPENSATION)
    assert all(layer.own_gap is not None for layer in section.layers)
