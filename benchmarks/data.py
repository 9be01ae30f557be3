"""One augmented epoch of CIFAR's shape, against a torchvision DataLoader.

The images are random bytes: only time is measured here, and it does not depend on what is in them.

    python benchmarks/data.py [--repeats N] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import ratios
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image

from tiebreak.data import Augmentation, DataSet, Images, train_batches
from tiebreak.data.cifar import CIFAR10_MEAN, CIFAR10_STD
from tiebreak.design.axes import DataName
from tiebreak.design.cell import Data

NUM_IMAGES = 50_000
LOADER_SHARE = 10
"""The DataLoader runs on one image in this many, its time multiplied by the same number."""
BATCH_SIZE = 128


class PilImages(Dataset):
    """Images through the usual transforms, one at a time."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.arrays = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(CIFAR10_MEAN, CIFAR10_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(to_pil_image(self.arrays[index])), 0


def random_images(num: int) -> Images:
    draw = torch.Generator().manual_seed(0)
    return Images(
        pixels=torch.randint(0, 256, (num, 3, 32, 32), dtype=torch.uint8, generator=draw),
        labels=torch.zeros(num, dtype=torch.int64),
        origin="random bytes",
    )


def tiebreak_epoch_seconds(dataset: DataSet, *, device: str, epoch: int) -> float:
    data = Data(name=DataName.CIFAR10, batch_size=BATCH_SIZE, augment=True)
    start = ratios.clock_of(device)()
    num_images = sum(
        len(batch.labels)
        for batch in train_batches(dataset, data=data, epoch=epoch, order_seed=0, augment_seed=0)
    )
    seconds = ratios.clock_of(device)() - start
    assert num_images == NUM_IMAGES
    return seconds


def loader_epoch_seconds(loader: DataLoader, *, device: str) -> float:
    start = ratios.clock_of(device)()
    for images, labels in loader:
        images.to(device)
        labels.to(device)
    return (ratios.clock_of(device)() - start) * LOADER_SHARE


def main() -> None:
    options = ratios.arguments(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    train = random_images(NUM_IMAGES)
    dataset = DataSet(
        name="random bytes",
        train=train,
        test=random_images(1),
        num_classes=1,
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        augmentation=Augmentation.CROP_FLIP,
    ).to(options.device)
    subset = PilImages(train.pixels[: NUM_IMAGES // LOADER_SHARE])
    loader = DataLoader(subset, batch_size=BATCH_SIZE, shuffle=True)
    tiebreak_epoch_seconds(dataset, device=options.device, epoch=0)
    speedups = [
        loader_epoch_seconds(loader, device=options.device)
        / tiebreak_epoch_seconds(dataset, device=options.device, epoch=epoch)
        for epoch in range(1, options.repeats + 1)
    ]
    line = ratios.row(
        f"one augmented epoch of {NUM_IMAGES} x 3x32x32, batch {BATCH_SIZE}, on {options.device}",
        speedups,
        baseline="torchvision DataLoader, no workers",
        target=12.0,
        at_most=False,
    )
    ratios.report("Data (times faster)", [line], path=options.json)


if __name__ == "__main__":
    main()
