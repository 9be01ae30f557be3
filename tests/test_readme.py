"""The first screen is true: its numbers stand in the committed tables, its commands and its code work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from tiebreak import config
from tiebreak.cli import main
from tiebreak.design.axes import Device

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
TABLES = ROOT / "results" / "tables" / "demo"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands(verb: str) -> list[list[str]]:
    lines = [line.split("#")[0] for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line)[2:] for line in lines if line.startswith(f"tiebreak {verb}")]


def test_code_runs(capsys) -> None:
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert "[0.25, 0.25, 0.25, 0.25]" in capsys.readouterr().out


@pytest.mark.parametrize("words", commands("run"), ids=" ".join)
def test_run_commands_compose(words: list[str]) -> None:
    overrides = [word for word in words if not word.startswith("-")]
    if "-m" in words:
        overrides = [word.split(",")[0] for word in overrides]
    config.compose_run(overrides, device=lambda: Device.CPU)


def test_studies_named_are_there(capsys) -> None:
    named = {words[0] for words in commands("study") if words}
    assert named <= set(config.list_studies())
    assert main(["study"]) == 0
    assert "demo" in capsys.readouterr().out


def test_links_and_folders_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"^\| `([a-z/]+)`", TEXT, flags=re.MULTILINE):
        assert (ROOT / target).is_dir(), target


def accuracy() -> pd.DataFrame:
    table = pd.read_csv(TABLES / "accuracy.csv")
    return table.set_index(["precision", "batch_norm", "forward", "beta"]).sort_index()


def lost(table: pd.DataFrame, precision: str, forward: str, beta: float) -> str:
    """`diverged of planned` over both settings of batch norm."""
    cells = table.xs((precision, forward, beta), level=("precision", "forward", "beta"))
    return f"{int(cells['num_diverged'].sum())} of {int(cells['num_planned'].sum())}"


def test_numbers_stand_in_the_committed_tables() -> None:
    table = accuracy()
    fp32 = table.xs("fp32", level="precision")
    assert int(fp32["num_diverged"].sum()) == int(fp32["num_not_learned"].sum()) == 0
    means = fp32["accuracy_mean"]
    shift = 100 * (means - means.xs(0.0, level="beta").reindex(means.index.droplevel("beta")).to_numpy())
    expected = [
        f"all {int(fp32['num_planned'].sum())} fp32 runs",
        f"at most {shift.abs().max():.1f} percentage points",
        f"{lost(table, 'fp16_rounded', 'blended', 1000.0)} blended",
        f"{lost(table, 'fp16_rounded', 'exact', 1000.0)} exact",
    ]
    zones = pd.read_csv(TABLES / "zones.csv")
    zones = zones[(zones["recipe"] == "published") & (zones["precision"] == "fp32")]
    minimal = zones[zones["jacobian"] == "minimal"].set_index("dither")
    expected += [
        f"median gap {minimal.loc[0.0, 'gap_median']:.1e}",
        f"{int(minimal.loc[0.1, 'share_zero'] * minimal.loc[0.1, 'num_draws'])} of "
        f"{int(minimal.loc[0.1, 'num_draws'])} draws",
    ]
    for precision in ("fp16_rounded", "bf16"):
        for forward in ("exact", "blended"):
            for beta in (1000.0, 10000.0):
                expected.append(lost(table, precision, forward, beta))
    flat = " ".join(TEXT.split())
    for phrase in expected:
        assert phrase in flat, f"README.md does not say {phrase!r}"


def test_zero_programs_published_number() -> None:
    assert "5.960464477539063e-08" in TEXT
    assert 2.0**-24 == 5.960464477539063e-08


def test_certified_numbers_stand_in_the_committed_tables() -> None:
    """The labels for beta = 1, in the order of the columns; epoch 0 is draws of `zones` again."""
    folder = ROOT / "results" / "tables" / "certified_vs_threshold"
    labels = pd.read_csv(folder / "certified.csv")
    labels = (
        labels[(labels["jacobian"] == "minimal") & (labels["epoch"] != 0)]
        .groupby("precision")
        .sum(numeric_only=True)
    )
    order = ["fp64", "fp32", "fp16_rounded", "bf16", "e4m3", "e5m2"]
    different = (labels["num_bifurcation"] + labels["num_masked_bifurcation"]).loc[order]
    counts = [f"{found} of {labels.loc[name, 'num_draws']:.0f}" for name, found in different.items()]
    assert "| different over the reals | " + " | ".join(counts) + " |" in TEXT
    assert labels["num_undecided"].sum() == labels["num_nonfinite"].sum() == labels["num_vacuous"].sum() == 0
    assert pd.read_csv(folder / "certified.csv")["log2_error_max"].max() <= -48
    said = pd.read_csv(folder / "confusion.csv")
    said = said[(said["jacobian"] == "minimal") & (said["recipe"] == "published") & (said["epoch"] != 0)]
    alarms = said[said["zone"] == "bifurcation"]
    for truth, word in (("equal", "wrongly"), ("different", "rightly")):
        here = alarms[alarms["truth"] == truth].groupby("precision")["num_draws"].sum()
        told = " | ".join(str(here.get(name, 0)) for name in order[:3])
        assert f"| published threshold says so, {word} | {told} |" in TEXT
    assert f"all {alarms['num_draws'].sum()} alarms" in TEXT
