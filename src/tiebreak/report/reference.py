"""The published repository's own results, read from a clone of it.

Below `results` the clone has, with CONF for `<data>/<network>/batch_norm_<True|False>/<optimizer>/bits_<n>`:

* `train/CONF/results.csv`, one row an epoch of a run of a beta,
* `best_learning_rates/CONF/best_lr.csv`, one row a beta,
* `train/imagenet/bits_24/maxpool_<beta>.csv`, one row an epoch *and rank*.

Nothing is dropped unsaid: runs that went to NaN, never left chance or stand alone are counted, and every file
or row that does not fit is named.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from tiebreak.design.axes import UserError
from tiebreak.report.reference_files import FilesOfClone, printable
from tiebreak.report.reference_rows import LOSS, PERCENT, SHARE, Columns, UnreadableError, read_rows
from tiebreak.report.wording import count

KEYS = ("arch", "data", "precision", "optimizer", "batch_norm", "beta")
"""Columns that name a configuration."""

_EPOCHS = Columns(
    whole=("run_id", "epoch"),
    finite=("maxpool",),
    measured={"train_loss": LOSS, "test_loss": LOSS, "test_accuracy": SHARE},
)
_IMAGENET_EPOCHS = Columns(whole=("experiment", "epoch"), finite=("maxpool",), measured={"accuracy": PERCENT})
_RATES = Columns(whole=(), finite=("maxpool",), measured={"lr": LOSS, "accuracy": SHARE})

_PRECISIONS = {"16": "fp16", "24": "amp16", "32": "fp32", "64": "fp64"}
_ARCHS = {"lenet": "lenet5", "densenet121": "densenet121_published"}
_COPIES = ".ipynb_checkpoints"
_CONFIGURATION = re.compile(
    r"(?P<data>\w+)/(?P<arch>\w+)/batch_norm_(?P<batch_norm>True|False)/(?P<optimizer>\w+)/bits_(?P<bits>\d+)"
)
_IMAGENET = re.compile(r"bits_(?P<bits>\d+)/maxpool_(?P<beta>\d+(\.\d*)?)\.csv")
MAJORITY = {"mnist": 0.1135, "cifar10": 0.1, "svhn": 0.19587431, "imagenet": 0.001}
"""Share of the commonest class in each test split."""

_RUN = (
    "run", "num_epochs", "final_accuracy", "best_accuracy", "went_nan", "never_learned", "num_nan_accuracies",
)  # fmt: skip
_MEASURED = (
    "num_runs", "num_epochs", "num_accuracies", "accuracy_mean", "accuracy_sd", "best_accuracy_mean",
    "num_nan", "num_never_learned", "remarks",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a clone holds.

    Args:
        runs: one row a training run: the keys of a configuration, `run`, `num_epochs`, `final_accuracy`,
            `best_accuracy`, `went_nan`, `never_learned`, `num_nan_accuracies` (epochs).
        rates: one row a configuration and beta of the learning-rate search: `lr`, `search_accuracy`.
        of_files: sentences on what is odd about the files.
    """

    runs: pd.DataFrame
    rates: pd.DataFrame
    of_files: tuple[str, ...]

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences on what is odd, about files and then about configurations."""
        of_runs = (
            f"{words_of(key)}: {words}" for key, group in self._configurations() for words in _oddities(group)
        )
        return (*self.of_files, *of_runs)

    def table(self) -> pd.DataFrame:
        """One row a configuration: runs and what became of them, accuracies in [0, 1], the rate, remarks.

        `accuracy_mean` and `accuracy_sd` are over the `num_accuracies` runs whose last epoch has an accuracy.
        """
        records = []
        for key, group in self._configurations():
            final = group["final_accuracy"].dropna()
            records.append(
                {
                    **key,
                    "num_runs": len(group),
                    "num_epochs": int(group["num_epochs"].max()),
                    "num_accuracies": len(final),
                    "accuracy_mean": final.mean(),
                    "accuracy_sd": final.std(ddof=1) if len(final) > 1 else math.nan,
                    "best_accuracy_mean": group["best_accuracy"].mean(),
                    "num_nan": int(group["went_nan"].sum()),
                    "num_never_learned": int(group["never_learned"].sum()),
                    "remarks": "; ".join(_oddities(group)),
                }
            )
        table = pd.DataFrame(records, columns=[*KEYS, *_MEASURED])
        if not len(self.rates):
            return table.assign(lr=math.nan, search_accuracy=math.nan)
        return table.merge(self.rates, on=list(KEYS), how="outer", sort=False)

    def _configurations(self) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
        for key, group in self.runs.groupby(list(KEYS), sort=False):
            yield dict(zip(KEYS, key, strict=True)), group


def read_reference(clone: Path) -> Reference:
    """The training, ImageNet and learning-rate files of a clone of the published repository.

    Args:
        clone: its root.

    Raises:
        UserError: there is no folder results/train.
    """
    if not (clone / "results" / "train").is_dir():
        raise UserError(
            f"{clone} has no folder results/train. Give the root of a clone of the published repository."
        )
    found = FilesOfClone.of(clone)
    reader = _Reader(root=clone, remarks=list(found.odd))
    present, copies = set(found.results), 0
    for path in found.results:
        original = path
        if path.parent.name == _COPIES:
            original = path.parent.parent / path.name.replace("-checkpoint", "")
            if original in present:
                copies += 1
                continue
            reader.remark(
                path,
                f"is a notebook's copy of a file that is not there, {printable(original.name)}; it is read",
            )
        reader.read(path, as_if=original)
    if copies:
        copied = "1 copy" if copies == 1 else f"{copies} copies"
        reader.remarks.append(f"{copied} in folders {_COPIES} passed over")
    return Reference(
        runs=pd.DataFrame(reader.runs, columns=[*KEYS, *_RUN]),
        rates=pd.DataFrame(reader.rates, columns=[*KEYS, "lr", "search_accuracy"]),
        of_files=(*reader.remarks, *found.others),
    )


@dataclass
class _Reader:
    root: Path
    remarks: list[str]
    runs: list[dict[str, Any]] = field(default_factory=list)
    rates: list[dict[str, Any]] = field(default_factory=list)
    held: dict[tuple[object, ...], Path] = field(default_factory=dict)
    """The file that was read of each configuration."""

    def remark(self, path: Path, words: str) -> None:
        self.remarks.append(f"{printable(path.relative_to(self.root).as_posix())} {words}")

    def read(self, path: Path, *, as_if: Path) -> None:
        """Read one file as what its place says that it is."""
        kind, _, place = as_if.relative_to(self.root / "results").as_posix().partition("/")
        if kind == "train" and place.startswith("imagenet/"):
            match, columns = _IMAGENET.fullmatch(place.removeprefix("imagenet/")), _IMAGENET_EPOCHS
            read = self._imagenet
        elif kind == "train":
            match, columns, read = _of(place, "results.csv"), _EPOCHS, self._epochs
        else:
            match, columns, read = _of(place, "best_lr.csv"), _RATES, self._rates
        if match is None or kind not in ("train", "best_learning_rates"):
            self.remark(path, "is not a file that was expected; it was passed over")
            return
        setting = (kind, *_setting(match).values())
        if setting in self.held:
            first = printable(self.held[setting].relative_to(self.root).as_posix())
            self.remark(path, f"is of the same configuration as {first}, which is read; it was passed over")
            return
        try:
            frame, odd = read_rows(path, columns)
        except UnreadableError as error:
            self.remark(path, str(error))
            return
        self.held[setting] = path
        for words in odd:
            self.remark(path, words)
        read(path, frame, match)

    def _epochs(self, path: Path, frame: pd.DataFrame, match: re.Match[str]) -> None:
        frame = self._once(path, frame, ["maxpool", "run_id", "epoch"])
        for key, part in frame.sort_values("epoch").groupby(["maxpool", "run_id"]):
            beta, run = _numbers(key)
            lost = bool(part[["train_loss", "test_loss"]].isna().any(axis=None))
            self.runs.append(
                _setting(match)
                | {"beta": beta}
                | _run(run, part["test_accuracy"], lost=lost, data=match["data"])
            )

    def _imagenet(self, path: Path, frame: pd.DataFrame, match: re.Match[str]) -> None:
        beta = float(match["beta"])
        if strangers := int((frame["maxpool"] != beta).sum()):
            self.remark(
                path,
                f"has {count(strangers, 'row')} whose maxpool is not the {beta:g} of its name, which counts",
            )
        for key, part in self._without_ranks(path, frame).groupby(["experiment"]):
            (run,) = _numbers(key)
            accuracy = part.sort_values("epoch")["accuracy"] / 100
            lost = bool(accuracy.isna().any())
            self.runs.append(_setting(match) | _run(run, accuracy, lost=lost, data="imagenet"))

    def _without_ranks(self, path: Path, frame: pd.DataFrame) -> pd.DataFrame:
        """One row an epoch: the mean over ranks, and NaN where a rank has NaN."""
        ranks = frame.groupby(["experiment", "epoch"])["accuracy"].agg(
            ["size", "count", "mean", "min", "max"]
        )
        most = int(ranks["size"].max())
        some = (ranks["count"] > 0) & (ranks["count"] < ranks["size"])
        if most > 1:
            apart = int(((ranks["max"] != ranks["min"]) & (ranks["count"] == ranks["size"])).sum())
            self.remark(
                path,
                f"has up to {most} rows an epoch, one a rank; they differ in {count(apart, 'epoch')}; means "
                "are taken",
            )
        if fewer := int((ranks["size"] < most).sum()):
            self.remark(path, f"has fewer than {most} rows, one a rank, in {count(fewer, 'epoch')}")
        if some.any():
            (run, epoch), *_ = ranks.index[some]
            self.remark(
                path,
                f"has NaN on some ranks and not on others in {count(int(some.sum()), 'epoch')} (first: run "
                f"{run:g}, epoch {epoch:g}); NaN is taken, not the mean of the others",
            )
        return ranks["mean"].mask(some).rename("accuracy").reset_index()

    def _rates(self, path: Path, frame: pd.DataFrame, match: re.Match[str]) -> None:
        frame = self._once(path, frame, ["maxpool"])
        if empty := int(frame[["lr", "accuracy"]].isna().any(axis=1).sum()):
            self.remark(path, f"has {count(empty, 'row')} with a NaN as lr or accuracy; kept as it stands")
        for row in frame.to_dict("records"):
            found = {"lr": row["lr"], "search_accuracy": row["accuracy"]}
            self.rates.append(_setting(match) | {"beta": float(row["maxpool"])} | found)

    def _once(self, path: Path, frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
        kept = frame.drop_duplicates(keys, keep="last")
        if twice := len(frame) - len(kept):
            others = len(frame.drop_duplicates()) - len(kept)
            self.remark(
                path,
                f"has {count(twice, 'row')} for a {' and '.join(keys)} that it has again, {others} of them "
                "with other values; the last counts",
            )
        return kept


def _of(place: str, name: str) -> re.Match[str] | None:
    folder, _, file = place.rpartition("/")
    return _CONFIGURATION.fullmatch(folder) if file == name else None


def _precision(bits: str) -> str:
    return _PRECISIONS.get(bits, f"{bits} bits")


def _setting(match: re.Match[str]) -> dict[str, Any]:
    """What the place of a file says of all its rows: of ImageNet beta too, else all keys but beta."""
    if match.re is _IMAGENET:
        return {
            "arch": "resnet50",
            "data": "imagenet",
            "precision": _precision(match["bits"]),
            "optimizer": "sgd",
            "batch_norm": True,
            "beta": float(match["beta"]),
        }
    return {
        "arch": _ARCHS.get(match["arch"], match["arch"]),
        "data": match["data"],
        "precision": _precision(match["bits"]),
        "optimizer": match["optimizer"],
        "batch_norm": match["batch_norm"] == "True",
    }


def _numbers(key: Any) -> tuple[float, ...]:
    """The key of a group as floats."""
    return tuple(map(float, key))


def _run(run: float, accuracy: pd.Series, *, lost: bool, data: str) -> dict[str, Any]:
    best = float(accuracy.max())
    majority = MAJORITY.get(data, 0.0)
    return {
        "run": int(run),
        "num_epochs": len(accuracy),
        "final_accuracy": float(accuracy.iloc[-1]),
        "best_accuracy": best,
        "went_nan": lost,
        "never_learned": not lost and best <= majority * (1 + 1e-4),
        "num_nan_accuracies": int(accuracy.isna().sum()),
    }


def _oddities(runs: pd.DataFrame) -> Iterator[str]:
    """What is odd about the runs of a configuration: their number and lengths, NaN, nothing learned."""
    num = len(runs)
    if num == 1:
        yield "a single run, so there is no spread"
    if runs["num_epochs"].nunique() > 1:
        yield f"runs of {runs['num_epochs'].min()} to {runs['num_epochs'].max()} epochs"
    if lost := int(runs["went_nan"].sum()):
        kept = int(runs.loc[runs["went_nan"], "final_accuracy"].notna().sum())
        ends = f"; the last accuracy of {kept} of these is in the mean" if kept else ""
        yield f"{lost} of {num} runs went to NaN{ends}"
    strange = runs[~runs["went_nan"].astype(bool) & (runs["num_nan_accuracies"] > 0)]
    if len(strange):
        epochs = count(int(strange["num_nan_accuracies"].sum()), "epoch")
        yield f"{len(strange)} of {num} runs have NaN as accuracy in {epochs}, though no loss is NaN"
    if without := int(runs["final_accuracy"].isna().sum()):
        yield f"{without} of {num} runs end without an accuracy and are not in its mean"
    if idle := int(runs["never_learned"].sum()):
        yield f"{idle} of {num} runs never did better than the commonest class"


def words_of(key: Mapping[Any, Any]) -> str:
    """A configuration in words."""
    norm = "with" if key["batch_norm"] else "without"
    return (
        f"{key['arch']} on {key['data']}, {key['precision']}, {key['optimizer']}, {norm} batch norm, "
        f"beta {key['beta']:g}"
    )
