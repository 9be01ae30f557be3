"""Every figure of the paper from its folder of tables; those without records are named, with what to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from tiebreak.report.factor_figures import drift_figure, factor_figure
from tiebreak.report.findings import of_studies
from tiebreak.report.gap_figures import gaps_figure, ties_figure
from tiebreak.report.panels import rule
from tiebreak.report.rate_figure import rate_figure
from tiebreak.report.style import save
from tiebreak.report.table_files import read_tables
from tiebreak.report.tie_map_figure import tie_map_figure
from tiebreak.report.training_figures import accuracy_figure, difference_figure

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """A figure of the paper: the study it comes from, the table behind it, and how to read it.

    Args:
        name: of the files, without suffix.
        title: a heading.
        study: whose cells are drawn.
        table: the table that stands behind it.
        caption: how to read it.
        draw: tables of these cells to figure.
        needs: every table without which there is no figure.
        arch: only cells of this network.
        data: only cells of this data set, or folder of images.
        varies: column of the table that must have several values, since the figure is about their difference.
    """

    name: str
    title: str
    study: str
    table: str
    caption: str
    draw: Callable[[Tables], Figure]
    needs: tuple[str, ...] = ()
    arch: str = ""
    data: str = ""
    varies: str = ""

    def chosen(self, tables: Tables) -> dict[str, pd.DataFrame]:
        """The tables with this figure's cells only; empty if what it is about is not in them."""
        kept = {
            name: part
            for name, table in of_studies(tables, self.study).items()
            if len(part := self._own(table))
        }
        if not all(name in kept for name in (self.table, *self.needs)):
            return {}
        return kept if not self.varies or kept[self.table][self.varies].nunique() > 1 else {}

    def _own(self, table: pd.DataFrame) -> pd.DataFrame:
        if self.arch and "arch" in table:
            table = table[table["arch"] == self.arch]
        if self.data and "data" in table:
            folder = table["folder"].fillna("") if "folder" in table else ""
            table = table[(table["data"] == self.data) | (folder == self.data)]
        return table.reset_index(drop=True)

    def missing(self, plan: pd.DataFrame) -> str:
        """What would have to be run for this figure, in a sentence with the cells and the command."""
        parts = plan[plan["study"] == self.study] if len(plan) else plan
        if self.arch and len(parts):
            parts = parts[parts["archs"].map(lambda names: self.arch in str(names).split())]
        if self.data and len(parts):
            parts = parts[parts["datas"].map(lambda names: self.data in str(names).split())]
        if not len(parts):
            return f"{self.name}: no record, and study {self.study} is not among the configured ones."
        parts = parts[parts["num_done"] < parts["num_trials"]]  # a complete part is about something else
        if not len(parts):
            return f"{self.name}: {self.study} has all its records, and none of them is for this figure."
        words = [
            f"part {row['part']} ({row['num_cells']} cells, {row['num_trials']} trials, {row['first_cell']} "
            f"to {row['last_cell']}): {row['command']}"
            for row in parts.to_dict("records")
        ]
        return f"{self.name}: not the records of {self.study} that it needs. " + " · ".join(words)


_ACCURACY = (
    "Accuracy after the last epoch. Each point is a run; the bar is mean and sample standard deviation of "
    "the runs that reached their last epoch, those that never left chance (open points) among them. Runs "
    "that diverged have no accuracy: their number stands above their beta. Grey diamonds: the published "
    "means, with the blended forward on a GPU; the settings of both are in the table of verdicts."
)
_PAIRS = (
    "Accuracy minus that of beta = 0 with everything else the same, replicate by replicate: both runs of a "
    "pair start from the same weights and see the same batches in the same order. Bars: mean with its 95 % t "
    "interval, that of one difference. A star marks a difference from 0 at the level 0.05 of the whole "
    "family (Holm); a family is every difference of one network, data set and optimizer. Pairs with a "
    "diverged run have no difference and are counted above the panel."
)
_ZONES = (
    "Share of mini-batches on which the gap between beta = 0 and beta = 1 exceeds a threshold, at "
    "initialisation. Small points: single initialisations, of which the published values (diamonds) are one "
    "each. Large marks: their mean with a 95 % bootstrap over initialisations. A threshold does not prove "
    "which zone a batch is in."
)
_GAPS = (
    "Share of draws by decade of the gap (sum over tensors of sup norms); each decade holds its lower edge. "
    "Gaps of exactly 0 and non-finite ones have bins of their own. Dashed: the published threshold."
)
_ARM = (
    "Exact minus blended accuracy, replicate by replicate, everything else the same. The blended forward "
    "computes beta * minimal + (1 - beta) * native in the working precision, as published; the exact one "
    "returns the maximum bit for bit. Pairs with a diverged run are counted above the panel, by side."
)

_RATES = (
    "The rate with the highest accuracy on held-out training images; each point is a search, and what it "
    "found depends on the rates that it tried. Grey diamonds: the published rates, chosen by accuracy on "
    "the test set; of these only that of beta = 0 was used. A rate that no candidate learned with has no "
    "meaning, ours or theirs."
)

TRAINED = (
    ("lenet5", "mnist"),
    ("vgg11", "cifar10"),
    ("resnet18", "cifar10"),
    ("vgg11", "svhn"),
    ("densenet121_published", "cifar10"),
)
"""Networks and data sets whose accuracy by beta was published, besides ResNet-50 on ImageNet."""

FACTORS = (
    ("precision", "precision", "precision"),
    ("depth", "arch", "network"),
    ("batch_size", "batch_size", "images of a mini-batch"),
    ("batch_norm", "batch_norm", "batch norm"),
)
"""Factors of the zones: name of the study, column, words."""


def _accuracy(tables: Tables) -> Figure:
    return accuracy_figure(tables["accuracy"], tables["runs"])


def _pairs(tables: Tables) -> Figure:
    return difference_figure(
        tables["pairs"],
        tables["runs"],
        label=r"accuracy minus that of $\beta = 0$",
        treated="",
        reference=r"$\beta = 0$",
    )


def _arms(tables: Tables) -> Figure:
    return difference_figure(
        tables["forward_arm"],
        tables["runs"],
        label="exact minus blended accuracy",
        treated="exact",
        reference="blended",
    )


def _factor(column: str, words: str) -> Callable[[Tables], Figure]:
    def draw(tables: Tables) -> Figure:
        zones = tables["zones"]
        minimal = zones[rule(zones) == "minimal"]
        return factor_figure(minimal.reset_index(drop=True), tables["shares"], factor=column, words=words)

    return draw


def _training(study: str, *, arch: str, data: str, name: str, title: str) -> Iterator[PaperFigure]:
    yield PaperFigure(
        name=f"accuracy_{name}", title=f"Accuracy by beta: {title}", study=study, table="accuracy",
        needs=("runs",), caption=_ACCURACY, draw=_accuracy, arch=arch, data=data,
    )  # fmt: skip
    yield PaperFigure(
        name=f"pairs_{name}", title=f"Paired differences to beta = 0: {title}", study=study, table="pairs",
        needs=("runs",), caption=_PAIRS, draw=_pairs, arch=arch, data=data,
    )  # fmt: skip


def _figures() -> Iterator[PaperFigure]:
    for factor, column, words in FACTORS:
        yield PaperFigure(
            name=f"zones_by_{factor}", title=f"Zones by {words}", study=f"paper/zones_by_{factor}",
            table="zones", needs=("shares",), caption=_ZONES, draw=_factor(column, words), varies=column,
        )  # fmt: skip
    yield PaperFigure(
        name="ties", title="Where ties are", study="paper/zones_by_precision", table="ties",
        caption="Share of pooling windows whose maximum is attained more than once, by pool. After a ReLU, "
        "ties at zero send no gradient on; only ties above zero can act. Arms: 95 % bootstrap over "
        "initialisations.",
        draw=lambda tables: ties_figure(tables["ties"]),
    )  # fmt: skip
    for study, title, varies in (
        ("paper/threshold_deterministic", "Gaps with deterministic algorithms", ""),
        ("paper/threshold_nondeterministic", "Gaps with algorithms that do not repeat their bits", ""),
        ("beyond/dither", "Gaps with flat patches, with noise on the input and without padding", "dither"),
        ("beyond/bf16_and_fp8", "Gaps in bf16 and in eight bits", ""),
        ("beyond/stem_3x3", "Gaps with the usual stem pool of ResNets", "stem_pool"),
    ):
        name = study.partition("/")[2]
        yield PaperFigure(
            name=f"{name}_gaps" if name == "stem_3x3" else name, title=title, study=study, table="gaps",
            caption=_GAPS, draw=lambda tables: gaps_figure(tables["gaps"]), varies=varies,
        )  # fmt: skip
    yield PaperFigure(
        name="normpool",
        title="Gaps of the norm pool's two programs",
        study="paper/normpool",
        table="norm_gaps",
        caption="The norm of a window has no derivative at 0; the programs take 0 and 1 there. Plain "
        "squares: squares are rounded to the format before they are added, as published; else the norm is "
        "accurate. " + _GAPS.removesuffix(" Dashed: the published threshold."),
        draw=lambda tables: gaps_figure(tables["norm_gaps"], has_threshold=False),
    )
    for name, title, data in (
        ("tie_map", "Where a digit ties", "mnist"),
        ("tie_map_cifar10_jpeg", "Where a photograph ties", "cifar10-jpeg"),
    ):
        yield PaperFigure(
            name=name, title=title, study="paper/tie_map", table="map", needs=("images",), data=data,
            caption="The first training image and its 2x2 windows with several maxima: in the image and in "
            "the first pool of an untrained network, at the middle of what each window sees. Numbers count "
            "places: tied above 0 in some channel, and tied at 0 only.",
            draw=lambda tables: tie_map_figure(tables["images"], tables["map"]),
        )  # fmt: skip
    for study, title in (
        ("paper/lr_search", "Learning rates that a search finds"),
        ("beyond/per_beta_lr", "Learning rates found for each beta"),
    ):
        yield PaperFigure(
            name="lr_search" if study == "paper/lr_search" else "per_beta_lr_rates", title=title, study=study,
            table="lr_search", caption=_RATES, draw=lambda tables: rate_figure(tables["lr_search"]),
        )  # fmt: skip
    yield PaperFigure(
        name="weight_drift", title="Distance between weights", study="paper/weight_drift", table="drift",
        caption="Sum over all weights of the absolute difference to the run with beta = 0, from the same "
        "start and on the same batches, mean over replicates. Dotted: the same rule run again, the control. "
        "Both axes start where the values do; 0 is drawn on the lowest line.",
        draw=lambda tables: drift_figure(tables["drift"]),
    )  # fmt: skip
    for arch, data in TRAINED:
        yield from _training(
            "paper/accuracy_by_beta", arch=arch, data=data, name=f"{arch}_{data}", title=f"{arch} on {data}"
        )
    yield from _training(
        "paper/imagenet_resnet50", arch="resnet50", data="imagenet", name="resnet50_imagenet",
        title="resnet50 on imagenet",
    )  # fmt: skip
    yield PaperFigure(
        name="forward_arm", title="The Jacobian, or the forward's rounding?", study="beyond/forward_arm",
        table="forward_arm", needs=("runs",), caption=_ARM, draw=_arms,
    )  # fmt: skip
    for name, title in (
        ("selections", "Other rules at ties"),
        ("per_beta_lr", "A learning rate for each beta"),
        ("adam_eps", "Adam's epsilon in 16 bits"),
        ("tf32", "TF32"),
        ("stem_3x3", "The usual stem pool of ResNets"),
    ):
        yield PaperFigure(
            name=name, title=title, study=f"beyond/{name}", table="accuracy", needs=("runs",),
            caption=_ACCURACY, draw=_accuracy,
        )  # fmt: skip


PAPER_FIGURES = tuple(_figures())
"""Every figure of the paper, in the order of the page."""


def draw_paper(tables_folder: Path, figures_folder: Path) -> tuple[list[Path], list[str]]:
    """Draw every figure of the paper that the tables allow.

    Args:
        tables_folder: what `write_paper_tables` wrote.
        figures_folder: made if absent; figures of an earlier run that have no rows now are removed.

    Returns:
        The files written, PDF before PNG, and a sentence for each figure that has no records.

    Raises:
        TableError: a table is not what was written.
    """
    tables = read_tables(tables_folder)
    figures_folder.mkdir(parents=True, exist_ok=True)
    plan = tables.get("plan", pd.DataFrame())
    written: list[Path] = []
    missing: list[str] = []
    for kind in PAPER_FIGURES:
        path = figures_folder / kind.name
        if chosen := kind.chosen(tables):
            written += save(kind.draw(chosen), path)
        else:
            missing.append(kind.missing(plan))
            for suffix in (".pdf", ".png"):
                path.with_suffix(suffix).unlink(missing_ok=True)
    return written, missing


def drawn(tables: Tables) -> Sequence[PaperFigure]:
    """The figures that the tables allow."""
    return [kind for kind in PAPER_FIGURES if kind.chosen(tables)]
