"""Claims and checks: tests that are named exist; verdicts follow their rule, also where records are few."""

import ast
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tiebreak.report import acceptance, published_claims
from tiebreak.report.claims import CLAIMS, claim_table
from tiebreak.report.findings import Standing
from tiebreak.report.published import compared, read_published
from tiebreak.report.reproduced import HELD
from tiebreak.report.stand_in import alike
from tiebreak.report.stats import mean_interval
from tiebreak.report.training_claims import forwards, high_norms, low_norms, reduces, single_errors
from tiebreak.report.verdicts import Evidence, Verdict, of_counts, of_means

ROOT = Path(__file__).parents[2]
NAMED = sorted({test for claim in CLAIMS for test in claim.tests} | {test for _, test in HELD})


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_is_named_is_there(named):
    path, _, function = named.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert not function or function in functions


def test_names_are_once_and_groups_are_known():
    names = [claim.name for claim in CLAIMS]
    assert len(names) == len(set(names))
    assert {claim.group for claim in CLAIMS} == {"abstract", "instrument", "stand_in", "acceptance"}
    checks = {name.split()[0] for name in names if name[0] == "7"}
    assert checks == {f"7.{number}" for number in range(1, 9)}
    assert {f"4.{number}" for number in range(1, 16)} == {name.split()[0] for name in names if name[0] == "4"}


def test_without_records_claims_say_what_to_run():
    plan = pd.DataFrame(
        {
            "study": "paper/zones_by_depth", "part": ["a", "b"], "num_trials": [10, 10], "num_done": [0, 3],
            "command": ["run a", "run b"],
        }
    )  # fmt: skip
    table = claim_table({"plan": plan}).set_index("claim")
    depth = table.loc["4.6 one initialisation"]
    assert depth["verdict"] == "not run here"
    assert depth["command"] == "run b"
    held = {claim.name for claim in CLAIMS if claim.tests}
    assert set(table[table["verdict"] == "held by a test"].index) == held


def scatter(number, beta):
    """What replicates of one beta differ by, another for each beta: up to 0.03 points."""
    return 1e-4 * (((number + 1) * (1 + beta % 7)) % 3)


def runs(outcomes, *, beta, accuracy=0.99, **axes):
    """A run a word of `outcomes`: `c` completed, `d` diverged in the first epoch, `n` never learned."""
    kinds = {"c": "completed", "d": "diverged", "n": "not_learned"}
    settings = {
        "arch": "lenet5", "data": "mnist", "optimizer": "sgd", "precision": "fp32", "forward": "exact",
        "batch_norm": False, "selection": "beta", "num_epochs": 6, "lr": 0.02, "chance": 0.1135,
        "eps": math.nan,
    } | axes  # fmt: skip
    return [
        settings
        | {
            "cell": f"{beta}-{sorted(axes.items())}", "beta": float(beta), "replicate": number,
            "outcome": kinds[kind],
            "final_test_accuracy": {"c": accuracy + scatter(number, beta), "n": 0.1135}.get(kind, math.nan),
            "nonfinite_epoch": 1.0 if kind == "d" else math.nan,
        }
        for number, kind in enumerate(outcomes)
    ]  # fmt: skip


def judged(judge, *rows, **more):
    return list(judge({"runs": pd.DataFrame([row for part in rows for row in part]), **more}))


@pytest.mark.parametrize(
    ("num", "standing"), [(1, Standing.UNDECIDED), (2, Standing.UNDECIDED), (3, Standing.SUPPORTED)]
)
def test_low_norms_need_three_replicates_of_both_betas(num, standing):
    cells = [runs("c" * num, beta=beta) for beta in (0, 1, 10)]
    (finding,) = judged(low_norms, *cells)
    assert finding.standing is standing
    assert f"{num} pair" in finding.numbers
    (partial,) = judged(low_norms, *cells[:2])
    assert partial.standing is Standing.UNDECIDED


def test_high_norms_are_harmless_only_if_both_were_run():
    cells = [runs("cccc", beta=beta) for beta in (0, 1_000, 10_000)]
    (finding,) = judged(high_norms, *cells)
    assert finding.standing is Standing.CONTRADICTED
    (partial,) = judged(high_norms, *cells[:2])
    assert partial.standing is Standing.UNDECIDED


def test_high_norms_are_unstable_where_runs_are_lost():
    lost = [runs("d" * 6, beta=beta) for beta in (1_000, 10_000)]
    (finding,) = judged(high_norms, runs("c" * 6, beta=0), *lost)
    assert finding.standing is Standing.SUPPORTED
    assert "6 of 6 lost" in finding.numbers


@pytest.mark.parametrize(("num", "is_decided"), [(2, False), (6, True)])
def test_what_batch_norm_saves_is_judged_from_three_replicates_on(num, is_decided):
    cells = [
        *(runs("c" * num, beta=0, batch_norm=flag) for flag in (False, True)),
        runs("c" * num, beta=100, accuracy=0.90),
        runs("c" * num, beta=100, batch_norm=True),
    ]
    keywords = {"column": "batch_norm", "weak": False, "strong": True, "words": ("without", "with")}
    (finding,) = judged(lambda tables: reduces(tables, **keywords), *cells)
    assert (finding.standing is Standing.SUPPORTED) == is_decided
    assert f"{num} pairs" in finding.numbers


def test_where_nothing_is_lost_there_is_nothing_to_reduce():
    cells = [runs("c" * 6, beta=beta, batch_norm=flag) for beta in (0, 100, 1_000) for flag in (False, True)]
    keywords = {"column": "batch_norm", "weak": False, "strong": True, "words": ("without", "with")}
    (finding,) = judged(lambda tables: reduces(tables, **keywords), *cells)
    assert finding.standing is Standing.UNDECIDED
    assert finding.numbers.endswith("nothing to reduce")


def adam_against_sgd(*cells):
    keywords = {"column": "optimizer", "weak": "sgd", "strong": "adam", "words": ("SGD", "Adam")}
    rows = [runs(kinds, beta=beta, **axes) for kinds, beta, axes in cells]
    return judged(lambda tables: reduces(tables, **keywords), *rows)


def test_betas_that_one_side_still_lacks_are_in_no_influence():
    sgd = [("ccc", 0, {}), ("ccc", 100, {}), ("ddd", 10_000, {})]
    adam = [(kinds, beta, {"optimizer": "adam"}) for kinds, beta, _ in sgd]
    (finding,) = adam_against_sgd(*sgd, *adam[:2])
    assert finding.standing is Standing.UNDECIDED
    assert "difference +0.0" in finding.numbers.replace("-0.0", "+0.0")


def test_lengths_and_rates_are_not_mixed():
    short = [("cccccccc", 0, {}), ("cccccccc", 100, {})]
    other = [("cccccccc", 0, {"lr": 0.5}), ("dddddddd", 100, {"lr": 0.5})]
    adam = [(kinds, beta, {"optimizer": "adam", "lr": 0.001}) for kinds, beta, _ in short]
    long = [(kinds, beta, axes | {"num_epochs": 100}) for kinds, beta, axes in short]
    found = adam_against_sgd(*short, *other, *adam, *long)
    assert [finding.standing for finding in found] == [Standing.UNDECIDED, Standing.SUPPORTED]
    assert all("6 epochs" in finding.where for finding in found)


def test_runs_at_chance_are_lost_and_in_no_mean():
    cells = [runs("c" * 6, beta=0), runs("cccnnn", beta=1_000), runs("c" * 6, beta=10_000)]
    (finding,) = judged(high_norms, *cells)
    assert finding.standing is Standing.UNDECIDED  # 3 of 6 are no evidence by Fisher's test
    assert "beta = 1000: 3 of 6 lost, accuracy +0.0" in finding.numbers.replace("-0.0", "+0.0")


def test_the_blended_forward_alone_loses_runs():
    rows = [
        runs(outcomes, beta=beta, precision="fp16_rounded", forward=forward)
        for forward, by_beta in (("exact", "ccc"), ("blended", "cdd"))
        for beta, kind in zip((100, 1_000, 10_000), by_beta, strict=True)
        for outcomes in [kind * 8]
    ]
    found = {finding.where: finding.standing for finding in judged(forwards, *rows)}
    assert found == {"fp16_rounded, beta = 1000": Standing.SUPPORTED}  # other betas are not what is claimed


def test_one_error_alone_is_held_against_all_of_the_operator():
    rows = [
        runs(kind * 6, beta=beta, precision="bf16", forward=forward, accuracy=0.98)
        for forward, at_fatal in (("blended", "d"), ("blended_value", "n"), ("blended_gradient", "c"))
        for beta, kind in ((100, "c"), (1_000, at_fatal))
    ]
    found = {finding.where: finding for finding in judged(single_errors, *rows)}
    value, gradient = (found[f"bf16, rounded {what}, beta = 1000"] for what in ("value", "gradient"))
    assert (value.standing, gradient.standing) == (Standing.SUPPORTED, Standing.CONTRADICTED)
    assert "alone 0 of 6, mean accuracy of the others 98." in gradient.numbers
    few = [row[:2] for row in rows]
    assert {finding.standing for finding in judged(single_errors, *few)} == {Standing.UNDECIDED}
    assert not judged(single_errors, *rows[:2])


def stand_in_pairs(own, rounded, *, accuracy=0.99, starts=3):
    """Runs of some starts at as many betas as letters, in fp16 and rounded; the same but for scatter."""
    more = {"device": "cpu", "batch_size": 128, "eps": math.nan}
    return [
        run | {"final_test_accuracy": run["final_test_accuracy"] + 1e-4 * (place % 3 - 1)}
        for precision, kinds, level in (("fp16", own, accuracy), ("fp16_rounded", rounded, 0.99))
        for place, kind in enumerate(kinds)
        for run in runs(kind * starts, beta=place, precision=precision, accuracy=level, **more)
    ]


@pytest.mark.parametrize(
    ("own", "rounded", "accuracy", "starts", "standing"),
    [
        ("ccccdd", "ccccdd", 0.99, 3, Standing.SUPPORTED),
        ("ccccdd", "ccccdd", 0.99, 2, Standing.UNDECIDED),  # many pairs, too few starts
        ("ccccdd", "cccccd", 0.99, 3, Standing.UNDECIDED),  # runs lost by one side only
        ("cccccc", "dccccc", 0.99, 8, Standing.CONTRADICTED),
        ("nc", "cc", 0.99, 8, Standing.CONTRADICTED),
        ("nnnc", "cccc", 0.99, 5, Standing.UNDECIDED),  # fifteen pairs are five starts
        ("cccccc", "cccccc", 0.90, 3, Standing.CONTRADICTED),
        ("dddd", "dddd", 0.99, 3, Standing.UNDECIDED),  # no accuracy to compare
    ],
)
def test_the_stand_in_loses_the_same_runs_and_keeps_the_accuracy(own, rounded, accuracy, starts, standing):
    (finding,) = judged(alike, stand_in_pairs(own, rounded, accuracy=accuracy, starts=starts))
    assert finding.where == "lenet5, mnist, cpu, exact forward"
    assert finding.standing is standing
    lost = starts * sum(kind in "dn" for kind in own)
    assert f"{starts * len(own)} pairs of {starts} starts, {lost} lost in fp16" in finding.numbers
    assert "nan" not in finding.numbers


def test_the_stand_in_is_not_judged_without_pairs():
    assert not judged(alike, stand_in_pairs("ccc", ""))
    assert not list(alike({}))


def test_the_first_epoch_is_asked_of_the_blended_forward_in_16_bits():
    sixteen = {"precision": "fp16_rounded", "forward": "blended"}
    rows = [*runs("dd", beta=1_000, **sixteen), *runs("dd", beta=10_000, **sixteen)]
    (finding,) = acceptance.accuracies({"runs": pd.DataFrame(rows)})
    assert finding.standing is Verdict.AGREES
    assert finding.numbers == "4 of 4 diverged, 4 of them in the first epoch"
    survivor = runs("c", beta=1_000, batch_norm=True, **sixteen)
    (finding,) = acceptance.accuracies({"runs": pd.DataFrame([*rows, *survivor])})
    assert finding.standing is Verdict.DIFFERS


def test_constants_are_those_that_the_instrument_did_not_make():
    published = pd.DataFrame(
        {
            "id": ["zero.a", "zero.b", "zero.c"], "quantity": "derivative", "precision": "fp32",
            "verdict": [str(Verdict.AGREES), str(Verdict.ARTEFACT), str(Verdict.AGREES)],
        }
    )  # fmt: skip
    tables = {"zero": pd.DataFrame({"cell": ["x"]}), "published": published}
    (finding,) = acceptance.constants(tables)
    assert finding.standing is Verdict.AGREES
    assert finding.numbers.startswith("2 of 2 derivatives are equal in every bit; 1 more")
    wrong = published.assign(verdict=str(Verdict.DIFFERS))
    assert next(acceptance.constants({**tables, "published": wrong})).standing is Verdict.DIFFERS


def test_published_searches_and_failures_are_counted():
    published = read_published(ROOT / "results" / "paper" / "published.csv")
    used, apart = published_claims.searches({"published": published})
    # Counted by hand in the table of rates, at beta = 0: Adam in fp16 for VGG11 (two) and LeNet-5 with batch
    # norm, and VGG11 without batch norm on SVHN (two).
    assert "5 of 28" in used.numbers
    assert used.standing is Standing.SUPPORTED
    assert apart.standing is Standing.UNDECIDED
    (plots,) = published_claims.hidden_failures({"published": published})
    lost = published[published["quantity"] == "runs that ended in NaN"]["value"].sum()
    assert plots.numbers.startswith(f"{int(lost)} of 1045 ended in NaN")


@pytest.mark.parametrize(
    ("own", "used", "standing"),
    [("cccccc", "dddddd", Standing.SUPPORTED), ("cccccc", "cccccc", Standing.CONTRADICTED),
     ("cc", "cc", Standing.UNDECIDED), ("cccccc", "dccccc", Standing.UNDECIDED)],
)  # fmt: skip
def test_a_rate_of_its_own_helps_where_it_saves_runs(own, used, standing):
    rows = [*runs(own, beta=1_000, lr=0.001), *runs(used, beta=1_000, lr=0.02)]
    frame = pd.DataFrame(rows).assign(cell=lambda table: table["lr"].astype(str))
    members = pd.DataFrame({"cell": ["0.001", "0.02"], "part": ["rate_of_its_own", "rate_of_beta_0"]})
    published = read_published(ROOT / "results" / "paper" / "published.csv")
    *_, finding = published_claims.searches({"published": published, "runs": frame, "members": members})
    assert finding.standing is standing


def test_draws_that_the_published_bins_drop_are_counted():
    gaps = pd.DataFrame(
        {
            "precision": "fp16", "beta": 1.0, "bin": ["decade", "decade", "nonfinite"],
            "decade": [-3.0, -1.0, math.nan], "num_draws": [90, 8, 2], "arch": "vgg11",
            "data": "image_folder", "folder": "cifar10-jpeg",
        }
    )  # fmt: skip
    (finding,) = published_claims.beyond_the_bins({"gaps_l1": gaps})
    assert finding.standing is Standing.SUPPORTED
    assert finding.numbers.startswith("10 of 100 draws (10.0 %)")
    assert "vgg11 on cifar10-jpeg (JPEG re-compressions)" in finding.numbers


def zone_tables(shares, *, precision="fp32", batch_norm=False, batch_size=128):
    cell = f"{precision}{batch_norm}{batch_size}"
    axes = {
        "cell": cell, "arch": "vgg11", "data": "cifar10", "precision": precision, "batch_norm": batch_norm,
        "batch_size": batch_size, "num_batches": 4, "dither": 0.0, "recipe": "published",
    }  # fmt: skip
    share = {
        "beta": 1.0,
        "share_above_threshold": np.mean(shares),
        "num_inits": len(shares),
        "num_draws": 4 * len(shares),
    }
    ends = {f"share_above_threshold_{end}": math.nan for end in ("low", "high")}
    inits = [
        {"cell": cell, "recipe": "published", "replicate": number, "share_above_threshold": value}
        for number, value in enumerate(shares)
    ]
    return [axes | share | ends], inits


def shares_judged(*parts):
    published = read_published(ROOT / "results" / "paper" / "published.csv")
    zones, inits = (pd.DataFrame([row for part in parts for row in part[side]]) for side in (0, 1))
    verdicts = compared(published, {})
    return list(acceptance.zone_shares({"zones": zones, "shares": inits, "published": verdicts}))


def test_zone_shares_are_reported_beside_all_published_initialisations():
    (finding,) = shares_judged(zone_tables(np.linspace(0.2, 0.8, 12)))
    assert finding.standing is Verdict.AGREES
    assert "published 48.6 to 55.2 % (5 initialisations)" in finding.numbers
    assert "20.0 to 80.0 %" in finding.numbers
    (few,) = shares_judged(zone_tables([0.5, 0.5, 0.6]))
    assert few.standing is Standing.UNDECIDED
    (apart,) = shares_judged(zone_tables([0.0] * 12))
    assert apart.standing is Verdict.DIFFERS


def test_one_published_initialisation_that_is_far_from_ours_differs():
    shares = [0.5, *[0.75] * 5, *[1.0] * 4]
    (norm,) = shares_judged(zone_tables(shares, precision="fp64", batch_norm=True))
    assert "published 0.0 to 0.0 % (1 initialisation)" in norm.numbers
    assert norm.standing is Verdict.DIFFERS


def test_factors_of_zones_are_paired_by_initialisation():
    small, large = np.linspace(0.1, 0.3, 12), np.linspace(0.6, 0.9, 12)
    *_, size = shares_judged(zone_tables(small, batch_size=64), zone_tables(large, batch_size=1024))
    assert size.where == "vgg11, cifar10, fp32: batch 1024 minus 64"
    assert size.standing is Verdict.AGREES
    *_, norm = shares_judged(zone_tables(large), zone_tables(small, batch_norm=True))
    assert norm.where == "vgg11, cifar10, fp32, batch 128: with batch norm minus without"
    assert norm.standing is Verdict.DIFFERS


def test_two_runs_are_no_evidence():
    nothing = Evidence()
    assert repr(of_counts((10, 10), (2, 2))) == repr(nothing)
    assert of_counts((10, 10), (3, 3)).same
    published = mean_interval([99.1, 99.2, 99.15])
    assert repr(of_means(published, mean_interval([99.1, 99.2]), margin=0.5)) == repr(nothing)
    assert of_means(published, mean_interval([99.1, 99.2, 99.1]), margin=0.5).p_same < 0.05
