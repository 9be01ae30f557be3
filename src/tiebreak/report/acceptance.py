"""What a repetition of the study has to show, judged from records: constants, zone shares, accuracies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from tiebreak.report.findings import Finding, Standing, Tables, in_points
from tiebreak.report.gradient_claims import setting_words, share_words, zone_rows
from tiebreak.report.paired import LEVEL, holm, paired_p
from tiebreak.report.panels import precisions
from tiebreak.report.stats import paired_difference
from tiebreak.report.training_claims import HIGH, lost_of
from tiebreak.report.verdicts import LEAST_INITS, LEAST_RUNS, Evidence, Verdict, of_inits
from tiebreak.report.wording import count, data_words, images_words
from tiebreak.report.zones import Threshold

_SHARE = "share of mini-batches with a gap above the threshold"
_IMAGES = ("cifar10", "cifar10-jpeg")


def _tally(verdicts: pd.DataFrame) -> str:
    counts = verdicts["verdict"].value_counts(sort=False)
    return ", ".join(f"{number} {word}" for word, number in counts.items())


def _numbers(tables: Tables, *, ids: str = "", quantity: str = "") -> pd.DataFrame:
    """Published numbers with their verdicts, by what their id and quantity begin with."""
    published = tables.get("published")
    if published is None or "verdict" not in published:
        return pd.DataFrame()
    return published[published["id"].str.startswith(ids) & published["quantity"].str.startswith(quantity)]


def constants(tables: Tables) -> Iterator[Finding]:
    """The derivatives of the zero programs, bit for bit."""
    if "zero" not in tables or not len(numbers := _numbers(tables, ids="zero.")):
        return
    for name, part in numbers.groupby("precision", sort=False):
        made = int((part["verdict"] == Verdict.ARTEFACT).sum())
        agree, total = int((part["verdict"] == Verdict.AGREES).sum()), len(part) - made
        printed = f"; {made} more were printed with definitions that had changed (artefacts)" if made else ""
        yield Finding(
            where=str(name) or "entries 1 2 3 4, fp32",
            standing=Verdict.AGREES if agree == total else Verdict.DIFFERS,
            numbers=f"{agree} of {total} derivatives are equal in every bit{printed}",
        )


def norms(tables: Tables) -> Iterator[Finding]:
    """Norms of the Jacobian by beta and number of maxima."""
    if not len(numbers := _numbers(tables, ids="jacobian_norm.")):
        return
    agree = int((numbers["verdict"] == Verdict.AGREES).sum())
    yield Finding(
        where="norm at windows with 2, 3 and 4 maxima",
        standing=Verdict.AGREES if agree == len(numbers) else Verdict.DIFFERS,
        numbers=f"{agree} of {len(numbers)} have the same three digits",
    )


def zone_shares(tables: Tables) -> Iterator[Finding]:
    """Shares of the published networks, by format, batch size and batch norm: reported, not passed."""
    rows, shares = zone_rows(tables, recipe=Threshold.PUBLISHED), tables.get("shares")
    if not len(rows) or shares is None:
        return
    rows = rows[
        rows["arch"].str.startswith("vgg")
        & rows["source"].isin(_IMAGES)
        & (rows["dither"] == 0)
        & rows["precision"].isin(["fp16", "fp16_rounded", "fp32", "fp64"])
    ]
    shares = shares[shares["recipe"] == Threshold.PUBLISHED]
    published = _numbers(tables, ids="zones.", quantity=_SHARE)
    fp32 = shares.merge(
        rows.loc[
            rows["precision"] == "fp32", ["cell", "arch", "source", "batch_size", "batch_norm", "num_batches"]
        ].drop_duplicates(),
        on="cell",
    )
    judged = [
        *_settings(rows, shares, published),
        *_ordered(fp32[~fp32["batch_norm"].astype(bool)], column="batch_size", same=["arch", "source"]),
        *_ordered(fp32, column="batch_norm", same=["arch", "source", "batch_size", "num_batches"]),
    ]
    for (finding, _, of_apart), p in zip(judged, holm([p for _, p, _ in judged]), strict=True):
        yield replace(finding, standing=of_apart) if p < LEVEL else finding


def _settings(
    rows: pd.DataFrame, shares: pd.DataFrame, published: pd.DataFrame
) -> Iterator[tuple[Finding, float, Verdict]]:
    """Each setting beside its published initialisations: without a test, its p and the verdict of that."""
    for row in rows.drop_duplicates("cell").to_dict("records"):
        ours = shares.loc[shares["cell"] == row["cell"], "share_above_threshold"].to_numpy(dtype=float)
        theirs, num_batches = _published_shares(published, row), int(row["num_draws"]) // len(ours)
        beside = (
            f"published {100 * theirs['value'].min():.1f} to {100 * theirs['value'].max():.1f} % "
            f"({count(len(theirs), 'initialisation')})"
            if len(theirs)
            else "nothing published"
        )
        evidence = _of_shares(theirs, ours, num_batches=num_batches)
        finding = Finding(
            where=setting_words(row),
            standing=Verdict.AGREES if evidence.same else Standing.UNDECIDED,
            numbers=f"{share_words(row, 'share_above_threshold')}, single initialisations "
            f"{100 * ours.min():.1f} to {100 * ours.max():.1f} % of {num_batches} "
            f"mini-batches; {beside}",
        )
        yield finding, evidence.p_apart, Verdict.DIFFERS


def _published_shares(published: pd.DataFrame, row: dict) -> pd.DataFrame:
    """Published initialisations of one setting: a batch of 128 is not named in their ids."""
    precision = "fp16" if row["precision"] == "fp16_rounded" else row["precision"]
    size = published["id"].str.extract(r"\.batch(\d+)\.")[0].fillna("128").astype(int)
    return published[
        (published["arch"] == row["arch"])
        & (published["precision"] == precision)
        & (published["batch_norm"] == bool(row["batch_norm"]))
        & (size == row["batch_size"])
    ]


def _of_shares(theirs: pd.DataFrame, ours: np.ndarray, *, num_batches: int) -> Evidence:
    """All published initialisations of a setting together against ours."""
    counts = [
        (round(value * total), int(total)) for value, total in zip(theirs["value"], theirs["n"], strict=True)
    ]
    return of_inits(counts, ours, num_batches=num_batches)


def _ordered(
    shares: pd.DataFrame, *, column: str, same: list[str]
) -> Iterator[tuple[Finding, float, Verdict]]:
    """Whether shares grow with a factor: its largest level against its smallest, by initialisation."""
    for key, part in shares.groupby(same, sort=False):
        wide = part.pivot_table(index="replicate", columns=column, values="share_above_threshold").dropna()
        if wide.shape[1] < 2 or not len(wide):
            continue
        ends = wide.columns[0], wide.columns[-1]
        difference = paired_difference(100 * wide[ends[1]].to_numpy(), 100 * wide[ends[0]].to_numpy())
        p = paired_p(difference) if difference.num >= LEAST_INITS else math.nan
        named = dict(zip(same, key, strict=True))
        size = f", batch {named['batch_size']}" if "batch_size" in named else ""
        words = (
            f"batch {ends[1]} minus {ends[0]}" if column == "batch_size" else "with batch norm minus without"
        )
        where = f"{named['arch']}, {images_words(str(named['source']))}, fp32{size}: {words}"
        finding = Finding(where=where, standing=Standing.UNDECIDED, numbers=in_points(difference))
        yield finding, p, Verdict.AGREES if difference.mean > 0 else Verdict.DIFFERS


def accuracies(tables: Tables) -> Iterator[Finding]:
    """Accuracies in fp32 up to beta = 10^3, and runs lost in 16 bits from there on."""
    means = _numbers(tables, ids="accuracy.", quantity="final test accuracy, mean")
    fp32 = means[(means["precision"] == "fp32") & (means["beta"] <= 1_000)] if len(means) else means
    for (arch, data), part in fp32.groupby(["arch", "data"], sort=False) if len(fp32) else ():
        part = part[part["verdict"] != Verdict.ARTEFACT]
        ran = part[part["verdict"] != Verdict.NOT_RUN]
        if not len(part):
            continue
        if not len(ran):
            yield Finding(
                where=f"{arch}, {data}, fp32, beta up to 10^3",
                standing=Standing.NOT_RUN,
                numbers="; ".join(dict.fromkeys(part["command"])),
            )
            continue
        words = set(ran["verdict"])
        standing = Verdict.DIFFERS if Verdict.DIFFERS in words else Standing.UNDECIDED
        if words == {str(Verdict.AGREES)}:
            standing = Verdict.AGREES
        settings = sorted(set(ran["reason"].str.extract(r"(\d+ epochs)")[0].dropna()))
        yield Finding(
            where=f"{arch}, {data}, fp32, beta up to 10^3",
            standing=standing,
            numbers=f"of {len(part)} published means: {_tally(part)} (within 0.5 points; ours: "
            f"{', '.join(settings)})",
        )
    yield from _first_epoch(tables)


def _first_epoch(tables: Tables) -> Iterator[Finding]:
    """Runs in fp16 with SGD and the blended forward at large beta: whether they diverge, and when."""
    runs = tables.get("runs")
    if runs is None:
        return
    runs = runs.assign(source=data_words(runs))
    runs = runs[
        runs["precision"].isin(["fp16", "fp16_rounded"])
        & (runs["forward"] == "blended")
        & runs["beta"].isin(HIGH)
        & (runs["outcome"] != "missing")
        & (runs["optimizer"] == "sgd")
    ]
    for name in precisions(runs):
        for (arch, source), part in runs[runs["precision"] == name].groupby(["arch", "source"], sort=False):
            lost, total = lost_of(part)
            diverged = part[part["outcome"] == "diverged"]
            first = int((diverged["nonfinite_epoch"] == 1).sum())
            standing = Standing.UNDECIDED
            if total >= LEAST_RUNS and first == total:
                standing = Verdict.AGREES
            elif total >= LEAST_RUNS and lost < total:
                standing = Verdict.DIFFERS
            yield Finding(
                where=f"{arch}, {source}, sgd, {name}, blended forward, beta = 10^3 and 10^4",
                standing=standing,
                numbers=f"{len(diverged)} of {total} diverged, {first} of them in the first epoch",
            )
