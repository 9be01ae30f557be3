"""Figures that only the paper has: what is drawn equals the table, and nothing that was lost is left out."""

import numpy as np
import pandas as pd
import pytest

from tiebreak.report.factor_figures import beta_of, drift_figure, factor_figure
from tiebreak.report.tie_map_figure import RAW, tie_map_figure

AXES = {"arch": "lenet5", "data": "mnist", "forward": "exact"}


def drift_rows():
    for precision in ("fp16_rounded", "fp64"):
        for epoch in (1, 2, 3):
            for jacobian, copy, distance in (
                ("native", 1, 0.0),
                ("minimal", 0, 1e-9),
                ("beta10000", 0, 3e-2),
            ):
                lost = precision == "fp16_rounded" and jacobian == "beta10000" and epoch > 1
                yield AXES | {
                    "cell": precision, "precision": precision, "jacobian": jacobian, "copy": copy,
                    "epoch": epoch,
                    "distance_l1_mean": np.nan if lost else distance * epoch, "num_inits": 3,
                    "num_nonfinite": 2 * lost,
                }  # fmt: skip


def test_distances_are_those_of_the_table_and_lost_runs_are_counted():
    drift = pd.DataFrame(drift_rows())
    figure = drift_figure(drift)
    coarse, fine = figure.axes
    lines = {line.get_gid(): line for line in fine.lines}
    assert list(lines["drift:minimal:0"].get_ydata()) == pytest.approx([1e-9, 2e-9, 3e-9])
    assert list(lines["drift:native:1"].get_ydata()) == [0.0, 0.0, 0.0]
    assert fine.get_ylim()[0] < 0, "exact zeros have to be seen"
    texts = [text.get_text() for text in coarse.texts]
    assert "2/3" in texts
    assert any("non-finite" in text for text in texts)
    figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("name", "beta"), [("native", 0.0), ("minimal", 1.0), ("beta0.5", 0.5), ("beta1000", 1e3)]
)
def test_a_rule_has_its_beta(name, beta):
    assert beta_of(name) == beta


def zones_and_shares():
    zones, shares = [], []
    for index, (arch, precision) in enumerate([("vgg11", "fp32"), ("vgg11", "bf16"), ("vgg16", "fp32")]):
        values = [0.0, 0.25, 0.5, 0.25, 0.5]
        for recipe in ("published", "relative"):
            undefined = precision == "bf16" and recipe == "published"
            zones.append(
                AXES
                | {
                    "cell": f"c{index}", "arch": arch, "precision": precision, "recipe": recipe,
                    "folder": "jpeg",
                    "threshold": np.nan if undefined else 1e-7, "num_inits": 5, "num_draws": 20,
                    "num_draws_nonfinite": int(arch == "vgg16"),
                    "share_above_threshold": np.nan if undefined else 0.3,
                    "share_above_threshold_low": np.nan if undefined else 0.1,
                    "share_above_threshold_high": np.nan if undefined else 0.4,
                    "published_percent": 48.59 if arch == "vgg11" and precision == "fp32" else np.nan,
                }
            )  # fmt: skip
            shares += [
                {"cell": f"c{index}", "replicate": place, "recipe": recipe,
                 "share_above_threshold": np.nan if undefined else value}
                for place, value in enumerate(values)
            ]  # fmt: skip
    return pd.DataFrame(zones), pd.DataFrame(shares)


def test_every_initialisation_is_a_point_beside_the_published_one():
    zones, shares = zones_and_shares()
    figure = factor_figure(zones, shares, factor="arch", words="network")
    published, relative = figure.axes
    drawn = {line.get_gid(): line for line in published.lines if line.get_gid()}
    points = np.concatenate([line.get_ydata() for line in published.lines if line.get_gid() == "inits:fp32"])
    assert sorted(points) == pytest.approx(sorted(2 * [0, 25, 50, 25, 50]))
    assert list(drawn["published:fp32"].get_ydata()) == [48.59]
    assert not [line for line in relative.lines if str(line.get_gid()).startswith("published")]
    assert "1/20" in [text.get_text() for text in published.texts]
    assert any("jpeg" in text.get_text() for text in relative.texts), "a panel names its images"
    figure.draw_without_rendering()


def test_marks_of_a_tie_map_stand_at_the_windows():
    image = {"cell": "c", "precision": "fp32", "channels": 1, "height": 4, "width": 4, "image": 0}
    images = pd.DataFrame([AXES | {"arch": "vgg11"} | image | {"pixels": bytes(range(16)).hex()}])
    place = AXES | {"cell": "c", "precision": "fp32", "channels": 2, "tied": 2}
    windows = pd.DataFrame(
        [
            place | {"pool": RAW, "window_row": 0, "window_column": 1, "tied_above_zero": 0},
            place | {"pool": 0, "window_row": 1, "window_column": 0, "tied_above_zero": 2},
        ]
    )
    figure = tie_map_figure(images, windows)
    raw, pooled = figure.axes
    assert raw.images[0].get_array().tolist() == np.arange(16).reshape(4, 4).tolist()
    assert raw.collections[0].get_offsets().tolist() == [[2.5, 0.5]]
    assert pooled.collections[0].get_offsets().tolist() == [[0.5, 2.5]]
    assert raw.get_xlabel().startswith("0 above 0")
    assert pooled.get_xlabel().startswith("1 above 0")
    figure.draw_without_rendering()
