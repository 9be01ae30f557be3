"""Networks with ties that were planted, so that what an audit must find is known."""

import torch
from torch import nn
from torch.nn import functional

SIZE = 12
LABELS = torch.tensor([0, 1, 2, 0])


def images(seed=0, *, flat_rows=0):
    """Four images of whole numbers of 256ths, of which the first rows are all the same."""
    drawn = torch.randint(0, 256, (4, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(seed))
    pixels = drawn.float() / 256
    pixels[:, :, :flat_rows] = 0.5
    return pixels


class Net(nn.Module):
    """A module pool, a functional pool, and a residual sum around the second convolution."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(3)
            self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
            self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Linear(36, 3)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        x = self.pool(functional.relu(self.conv1(x)))
        x = functional.relu(x + self.conv2(x))
        x = functional.max_pool2d(x, 2)
        return self.head(x.flatten(1))


def bifurcating(layer):
    """A filter of one convolution is 0 and its bias 1/2: its windows all tie, between other patches."""
    net = Net()
    if layer == 1:
        with torch.no_grad():
            net.conv1.weight[2] = 0
            net.conv1.bias.fill_(1.0)  # alive, so that no equal patches reach the second pool
            net.conv1.bias[2] = 0.5
        return net

    class Plain(Net):
        def forward(self, x):
            x = self.pool(functional.relu(self.conv1(x)))
            x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
            return self.head(x.flatten(1))

    plain = Plain()
    with torch.no_grad():
        plain.conv2.weight[2] = 0
        plain.conv2.bias[2] = 0.5
    return plain


class Normed(nn.Module):
    """Batch norm and dropout before the pool."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(3)
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
            self.drop, self.head = nn.Dropout(0.5), nn.Linear(100, 3)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.norm(self.conv(x))), 2)
        return self.head(self.drop(x.flatten(1)))
