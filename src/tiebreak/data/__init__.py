"""Images as tensors in memory; order is a function of (seed, epoch).

`load` reads a data set from disk, `train_batches` and `test_batches` feed it, `fetch` downloads the ones
that may be downloaded. A data set that is missing or damaged is a `DataError` with a sentence that says
what to do; nothing synthetic is ever put in its place.

Example:
    >>> from pathlib import Path
    >>> from tiebreak.data import load, num_batches, train_batches
    >>> from tiebreak.design.cell import Data
    >>> data = Data(name="mnist5k", batch_size=100)
    >>> digits = load(data, root=Path("data"))
    >>> num_batches(digits, data)
    40
    >>> batch = next(train_batches(digits, data=data, epoch=1, order_seed=0, augment_seed=0))
    >>> tuple(batch.images.shape), batch.images.dtype
    ((100, 1, 28, 28), torch.float32)
"""

from tiebreak.data.batches import Batch, num_batches, test_batches, train_batches
from tiebreak.data.dataset import Augmentation, DataSet
from tiebreak.data.download import fetch
from tiebreak.data.files import ImageFiles
from tiebreak.data.images import DataError, Images
from tiebreak.data.loading import load

__all__ = [
    "Augmentation",
    "Batch",
    "DataError",
    "DataSet",
    "ImageFiles",
    "Images",
    "fetch",
    "load",
    "num_batches",
    "test_batches",
    "train_batches",
]
