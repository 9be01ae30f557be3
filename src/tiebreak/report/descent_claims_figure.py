"""The verdicts on claims about training with kinks as one figure."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.figure import Figure

from tiebreak.report.checks import Verdict
from tiebreak.report.style import DIVERGED, PAGE_INCHES, new_figure, paper_style

_COLOURS = {str(Verdict.HOLDS): "#009E73", str(Verdict.MIXED): "#B07800", str(Verdict.FAILS): DIVERGED}


def claims_figure(claims: pd.DataFrame) -> Figure:
    """The checks that each claim passed, of all it had, with the verdict that they give.

    Args:
        claims: table `descent_claims`.
    """
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=0.35 + 0.3 * len(claims))
        axes = figure.subplots()
        for row, claim in enumerate(claims.to_dict("records")):
            colour = _COLOURS[claim["verdict"]]
            axes.barh(row, 1.0, color="#EEEEEE", height=0.5)
            share = claim["num_passed"] / claim["num_checks"]
            axes.barh(row, share, color=colour, height=0.5, gid=f"claim:{claim['claim']}")
            axes.text(-0.03, row, claim["claim"], ha="right", va="center", fontweight="bold")
            axes.text(1.04, row, claim["verdict"], va="center", color=colour, fontweight="bold")
            axes.text(1.44, row, f"{claim['num_passed']} of {claim['num_checks']}", va="center")
            statement = textwrap.shorten(claim["words"], 190, placeholder=" ...")
            axes.text(1.95, row, textwrap.fill(statement, 96), va="center", fontsize=6, linespacing=1.05)
        axes.set(xlim=(-0.2, 6.2), ylim=(len(claims) - 0.4, -0.6))
        axes.set_axis_off()
    return figure
