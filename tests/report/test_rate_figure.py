"""The figure of learning rates holds every search and every published rate."""

import math

import numpy as np
import pandas as pd

from tiebreak.report.rate_figure import rate_figure


def test_every_search_is_a_point_and_published_rates_stand_beside():
    rows = [
        {
            "cell": f"{precision}{jacobian}", "arch": "lenet5", "data": "mnist", "precision": precision,
            "forward": "exact", "selection": "beta", "jacobian": jacobian, "beta": beta,
            "replicate": replicate, "best_lr": rate * (1 + replicate),
            "published_lr": 0.02 if beta == 0 else math.nan,
        }
        for precision in ("fp16_rounded", "fp32")
        for jacobian, beta, rate in (("native", 0.0, 0.01), ("beta10000", 1e4, 1e-5))
        for replicate in range(2)
    ]  # fmt: skip
    figure = rate_figure(pd.DataFrame(rows))
    drawn = [
        (line.get_gid(), float(x), float(y))
        for axes in figure.axes
        for line in axes.lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]
    points = sorted(y for gid, _, y in drawn if gid.startswith("rates:"))
    np.testing.assert_allclose(points, sorted(row["best_lr"] for row in rows))
    assert [y for gid, _, y in drawn if gid.startswith("published:")] == [0.02, 0.02]
    low, high = figure.axes[0].get_ylim()
    assert low < min(points)
    assert high > max(points)
