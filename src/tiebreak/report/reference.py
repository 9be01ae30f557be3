"""The published repository's own results, read from a clone of it and put beside ours.

Below `results` the clone has, with CONF for `<data>/<network>/batch_norm_<True|False>/<optimizer>/bits_<n>`:

* `train/CONF/results.csv`, one row an epoch of a run of a beta,
* `best_learning_rates/CONF/best_lr.csv`, one row a beta,
* `train/imagenet/bits_24/maxpool_<beta>.csv`, one row an epoch *and rank*.

Nothing is dropped: runs that went to NaN, never left chance or stand alone are counted, and whatever does not
fit is named.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from tiebreak.design.axes import UserError

EPOCH_COLUMNS = ("run_id", "epoch", "train_loss", "test_loss", "test_accuracy", "maxpool")
IMAGENET_COLUMNS = ("experiment", "epoch", "accuracy", "maxpool")
RATE_COLUMNS = ("maxpool", "lr", "accuracy")
"""Columns that must be there, by kind of file; others are passed over."""

_KEYS = ("arch", "data", "precision", "optimizer", "batch_norm", "beta")
_PRECISIONS = {"16": "fp16", "24": "amp16", "32": "fp32", "64": "fp64"}
_ARCHS = {"lenet": "lenet5", "densenet121": "densenet121_published"}
_COPIES = ".ipynb_checkpoints"
_CONFIGURATION = re.compile(
    r"(?P<data>\w+)/(?P<arch>\w+)/batch_norm_(?P<batch_norm>True|False)/(?P<optimizer>\w+)/bits_(?P<bits>\d+)"
)
_IMAGENET = re.compile(r"bits_(?P<bits>\d+)/maxpool_(?P<beta>[\d.]+)\.csv")
MAJORITY = {"mnist": 0.1135, "cifar10": 0.1, "svhn": 0.19587431, "imagenet": 0.001}
"""Share of the commonest class in each test split."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a clone holds.

    Args:
        runs: one row a training run: the keys of a configuration, `run`, `num_epochs`, `final_accuracy`,
            `best_accuracy`, `went_nan`, `never_learned`.
        rates: one row a configuration and beta of the learning-rate search: `lr`, `search_accuracy`.
        remarks: sentences on what is odd about the files, in the order of their paths.
    """

    runs: pd.DataFrame
    rates: pd.DataFrame
    remarks: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """One row a configuration and beta: accuracies in [0, 1], runs and what became of them, the rate."""
        records = []
        for key, group in self.runs.groupby(list(_KEYS), sort=False):
            final = group["final_accuracy"]
            records.append(
                {
                    **dict(zip(_KEYS, key, strict=True)),
                    "num_runs": len(group),
                    "num_epochs": int(group["num_epochs"].max()),
                    "accuracy_mean": final.mean(),
                    "accuracy_sd": final.std(ddof=1) if len(group) > 1 else math.nan,
                    "best_accuracy_mean": group["best_accuracy"].mean(),
                    "num_nan": int(group["went_nan"].sum()),
                    "num_never_learned": int(group["never_learned"].sum()),
                }
            )
        table = pd.DataFrame(records, columns=[*_KEYS, *_MEASURED])
        if not len(self.rates):
            return table.assign(lr=math.nan, search_accuracy=math.nan)
        return table.merge(self.rates, on=list(_KEYS), how="outer", sort=False)


_MEASURED = (
    "num_runs", "num_epochs", "accuracy_mean", "accuracy_sd", "best_accuracy_mean", "num_nan",
    "num_never_learned",
)  # fmt: skip


def read_reference(clone: Path) -> Reference:
    """The training, ImageNet and learning-rate files of a clone of the published repository.

    Args:
        clone: its root.

    Raises:
        UserError: there is no folder results/train.
    """
    results = clone / "results"
    if not (results / "train").is_dir():
        raise UserError(
            f"{clone} has no folder results/train. Give the root of a clone of the published repository."
        )
    reader = _Reader(root=clone)
    paths = sorted(results.rglob("*.csv"))
    present = set(paths)
    for path in paths:
        if path.parent.name == _COPIES:
            original = path.parent.parent / path.name.replace("-checkpoint", "")
            if original in present:
                reader.copies += 1
                continue
            reader.remark(
                path, f"is a notebook's copy of a file that is not there, {original.name}; it is read"
            )
            reader.read(path, as_if=original)
        else:
            reader.read(path, as_if=path)
    if reader.copies:
        reader.remarks.append(f"{reader.copies} copies in folders {_COPIES} were passed over")
    return Reference(
        runs=pd.DataFrame(reader.runs, columns=[*_KEYS, *_RUN]),
        rates=pd.DataFrame(reader.rates, columns=[*_KEYS, "lr", "search_accuracy"]),
        remarks=(*reader.remarks, *_oddities(reader.runs)),
    )


_RUN = ("run", "num_epochs", "final_accuracy", "best_accuracy", "went_nan", "never_learned")


@dataclass
class _Reader:
    root: Path
    runs: list[dict[str, Any]] = field(default_factory=list)
    rates: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    copies: int = 0

    def remark(self, path: Path, words: str) -> None:
        self.remarks.append(f"{path.relative_to(self.root).as_posix()} {words}")

    def read(self, path: Path, *, as_if: Path) -> None:
        """Read one file as what its place says that it is."""
        kind, _, place = as_if.relative_to(self.root / "results").as_posix().partition("/")
        if kind == "train" and place.startswith("imagenet/"):
            match, columns = _IMAGENET.fullmatch(place.removeprefix("imagenet/")), IMAGENET_COLUMNS
            read = self._imagenet
        elif kind == "train":
            match, columns, read = _of(place, "results.csv"), EPOCH_COLUMNS, self._epochs
        else:
            match, columns, read = _of(place, "best_lr.csv"), RATE_COLUMNS, self._rates
        if match is None or kind not in ("train", "best_learning_rates"):
            self.remark(path, "is not a file that was expected; it was passed over")
            return
        try:
            frame = pd.read_csv(path)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            self.remark(path, f"cannot be read as a table ({str(error).strip()}); it was passed over")
            return
        if missing := [name for name in columns if name not in frame]:
            self.remark(path, f"has no column {', '.join(missing)}; it was passed over")
            return
        try:
            frame[list(columns)] = frame[list(columns)].astype(float)
        except ValueError as error:
            self.remark(path, f"holds what is no number ({error}); it was passed over")
            return
        read(path, frame, match)

    def _epochs(self, path: Path, frame: pd.DataFrame, match: re.Match[str]) -> None:
        frame = self._once(path, frame, ["maxpool", "run_id", "epoch"])
        for key, part in frame.sort_values("epoch").groupby(["maxpool", "run_id"]):
            beta, run = _numbers(key)
            self.runs.append(
                _configuration(match, beta=beta)
                | _run(
                    run,
                    part["test_accuracy"],
                    lost=part[["train_loss", "test_loss"]].isna().any(axis=None),
                    data=match["data"],
                )
            )

    def _imagenet(self, path: Path, frame: pd.DataFrame, match: re.Match[str]) -> None:
        ranks = frame.groupby(["experiment", "epoch"])["accuracy"]
        if (most := int(ranks.size().max())) > 1:
            apart = int((ranks.max() != ranks.min()).sum())
            self.remark(
                path,
                f"has up to {most} rows an epoch, one a rank; they differ in {apart} epochs; means are taken",
            )
        means = ranks.mean().reset_index()
        for key, part in means.groupby(["experiment"]):
            (run,) = _numbers(key)
            accuracy = part.sort_values("epoch")["accuracy"] / 100
            self.runs.append(
                {
                    "arch": "resnet50",
                    "data": "imagenet",
                    "precision": _PRECISIONS.get(match["bits"], match["bits"]),
                    "optimizer": "sgd",
                    "batch_norm": True,
                    "beta": float(match["beta"]),
                    **_run(run, accuracy, lost=bool(accuracy.isna().any()), data="imagenet"),
                }
            )

    def _rates(self, path: Path, frame: pd.DataFrame, match: re.Match[str]) -> None:
        frame = self._once(path, frame, ["maxpool"])
        for row in frame.to_dict("records"):
            found = {"lr": row["lr"], "search_accuracy": row["accuracy"]}
            self.rates.append(_configuration(match, beta=float(row["maxpool"])) | found)

    def _once(self, path: Path, frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
        twice = int(frame.duplicated(keys).sum())
        if twice:
            self.remark(
                path, f"has {twice} rows for a {' and '.join(keys)} that it had before; the last counts"
            )
        return frame.drop_duplicates(keys, keep="last")


def _of(place: str, name: str) -> re.Match[str] | None:
    folder, _, file = place.rpartition("/")
    return _CONFIGURATION.fullmatch(folder) if file == name else None


def _configuration(match: re.Match[str], *, beta: float) -> dict[str, Any]:
    return {
        "arch": _ARCHS.get(match["arch"], match["arch"]),
        "data": match["data"],
        "precision": _PRECISIONS.get(match["bits"], f"{match['bits']} bits"),
        "optimizer": match["optimizer"],
        "batch_norm": match["batch_norm"] == "True",
        "beta": beta,
    }


def _numbers(key: Any) -> tuple[float, ...]:
    """The key of a group as floats."""
    return tuple(map(float, key))


def _run(run: float, accuracy: pd.Series, *, lost: Any, data: str) -> dict[str, Any]:
    best = float(accuracy.max())
    majority = MAJORITY.get(data, 0.0)
    return {
        "run": int(run),
        "num_epochs": len(accuracy),
        "final_accuracy": float(accuracy.iloc[-1]),
        "best_accuracy": best,
        "went_nan": bool(lost),
        "never_learned": not lost and best <= majority * (1 + 1e-4),
    }


def _oddities(runs: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Configurations with one run, with runs of unequal length, that never learned, or lost runs to NaN."""
    frame = pd.DataFrame(runs, columns=[*_KEYS, *_RUN])
    for key, group in frame.groupby(list(_KEYS), sort=False):
        name = _words(dict(zip(_KEYS, key, strict=True)))
        if len(group) == 1:
            yield f"{name}: a single run, so there is no spread"
        if group["num_epochs"].nunique() > 1:
            yield f"{name}: runs of {group['num_epochs'].min()} to {group['num_epochs'].max()} epochs"
        if lost := int(group["went_nan"].sum()):
            yield f"{name}: {lost} of {len(group)} runs went to NaN; their accuracy is that of one class"
        if idle := int(group["never_learned"].sum()):
            yield f"{name}: {idle} of {len(group)} runs never did better than the commonest class"


def _words(key: dict[str, Any]) -> str:
    norm = "with" if key["batch_norm"] else "without"
    return (
        f"{key['arch']} on {key['data']}, {key['precision']}, {key['optimizer']}, {norm} batch norm, "
        f"beta {key['beta']:g}"
    )


def beside(reference: pd.DataFrame, accuracy: pd.DataFrame) -> pd.DataFrame:
    """The reference's table with our accuracies in the published forward arm beside it.

    Args:
        reference: as `Reference.table` gives it.
        accuracy: our table `accuracy`, one row a cell with its axes; empty where nothing was run. Cells of
            precision `fp16_rounded` stand beside the reference's fp16.

    Returns:
        The columns of `reference`, then `our_precision`, `our_epochs`, `our_lr`, `our_num_runs`,
        `our_num_diverged`, `our_accuracy_mean`, `our_accuracy_sd`; a row for each of our cells, or one with
        empty columns.
    """
    wanted = {
        "num_epochs": "our_epochs",
        "lr": "our_lr",
        "num_planned": "our_num_planned",
        "num_missing": "our_num_missing",
        "num_diverged": "our_num_diverged",
        "accuracy_mean": "our_accuracy_mean",
        "accuracy_sd": "our_accuracy_sd",
    }
    columns = [*_KEYS, "our_precision", *wanted.values()]
    if len(accuracy):
        ours = accuracy[accuracy["forward"] == "blended"].rename(columns=wanted)
        ours = ours.assign(our_precision=ours["precision"])
        ours["precision"] = ours["precision"].replace("fp16_rounded", "fp16")
        ours = ours[ours["our_num_planned"] > ours["our_num_missing"]]
        ours = ours.reindex(columns=columns).astype({"batch_norm": bool, "beta": float})
    else:
        ours = pd.DataFrame(columns=columns).astype({"batch_norm": bool, "beta": float})
    joined = reference.merge(ours, on=list(_KEYS), how="left", sort=False)
    joined["our_num_runs"] = joined.pop("our_num_planned") - joined.pop("our_num_missing")
    return joined.sort_values([*_KEYS], kind="stable", ignore_index=True)
