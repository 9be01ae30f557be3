"""Claims of the paper's abstract and defects of its instrument, each with a rule and what the records say.

Each rule is in the text of its claim, was written before these studies were complete, and stands on the
page. All p values of one claim are one family (Holm, level 0.05). A claim that speaks of several formats or
forward passes has a verdict for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import pandas as pd

from tiebreak.report.findings import Finding, Standing, Tables, of_study
from tiebreak.report.gradient_claims import (
    batch_norm_zones,
    built_in,
    dithered,
    epsilon,
    flat_ties,
    never_all_zero,
    one_init,
    over_the_reals,
    threshold_tells,
)
from tiebreak.report.training_claims import forwards, high_norms, low_norms, reduces


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Something that can be said to be so, or not.

    Args:
        name: short and stable.
        group: `abstract` or `instrument`.
        text: what is claimed.
        rule: what would have to be seen.
        study: whose records can say.
        judge: tables of the study to findings; none without records.
        test: the test that holds it where no record is needed, or empty.
    """

    name: str
    group: str
    text: str
    rule: str
    study: str
    judge: Callable[[Tables], Iterable[Finding]]
    test: str = ""


def claim_table(tables: Tables) -> pd.DataFrame:
    """Every claim with its findings, one row a finding; a claim without records has one that says so."""
    rows = []
    for claim in CLAIMS:
        findings = list(claim.judge(of_study(tables, claim.study))) or [
            Finding(
                where="",
                standing=Standing.SUPPORTED if claim.test else Standing.NOT_RUN,
                numbers=f"held by {claim.test}" if claim.test else f"no record of {claim.study}",
            )
        ]
        rows += [
            {
                "claim": claim.name,
                "group": claim.group,
                "text": claim.text,
                "rule": claim.rule,
                "study": claim.study,
                "where": finding.where,
                "verdict": str(finding.standing),
                "numbers": finding.numbers,
            }
            for finding in findings
        ]
    return pd.DataFrame(rows)


def _nothing(tables: Tables) -> Iterable[Finding]:
    return ()


_RUNS = "paper/accuracy_by_beta"
CLAIMS = (
    Claim(
        name="ae_derivative", group="abstract", study="certified_vs_threshold", judge=over_the_reals,
        text="Backpropagation with either rule is the derivative almost everywhere over the reals.",
        rule="Supported for a format if no certified draw has different derivatives and none is undecided. "
        "A finite sample cannot refute 'almost everywhere': a format whose draws differ is undecided, and "
        "its parameters lie on a coarse grid, which is not almost every point.",
    ),
    Claim(
        name="zones_by_threshold", group="abstract", study="certified_vs_threshold", judge=threshold_tells,
        text="A threshold on the gap separates the bifurcation zone (wrong over the reals) from the "
        "compensation zone (rounding).",
        rule="Contradicted by one false alarm or one miss among certified draws; supported if there is a "
        "true alarm and neither.",
    ),
    Claim(
        name="low_norm", group="abstract", study=_RUNS, judge=low_norms,
        text="Jacobians of low norm keep the accuracy.",
        rule="beta = 1 and 10 against 0, paired by replicate (mean of the networks with and without batch "
        "norm): supported if each mean lies within 0.5 points (two one-sided t tests, Holm) and no more "
        "runs are lost; contradicted if one lies beyond (t test, Holm) or more runs are lost (Fisher, "
        "one-sided, below 0.05).",
    ),
    Claim(
        name="high_norm", group="abstract", study=_RUNS, judge=high_norms,
        text="Jacobians of high norm make training unstable.",
        rule="beta = 10^3 and 10^4 against 0: supported if more runs diverge or stay at chance (Fisher, "
        "one-sided) or the accuracy of the others falls (paired t), Holm over all; contradicted if no run "
        "is lost and both means lie within 0.5 points (two one-sided t tests).",
    ),
    Claim(
        name="batch_norm_reduces", group="abstract", study=_RUNS,
        judge=partial(reduces, column="batch_norm", weak=False, strong=True,
                      words=("without", "with batch norm")),
        text="Batch norm reduces the influence of the Jacobian.",
        rule="Influence: accuracy lost to beta >= 100 in a replicate, runs that diverged scored at chance. "
        "Supported if it is smaller with batch norm (paired t over replicates, Holm); contradicted if it is "
        "larger, or the same within 0.5 points (two one-sided t tests).",
    ),
    Claim(
        name="adam_reduces", group="abstract", study=_RUNS,
        judge=partial(reduces, column="optimizer", weak="sgd", strong="adam",
                      words=("with SGD", "with Adam")),
        text="Adam-like optimizers reduce the influence of the Jacobian.",
        rule="As for batch norm, Adam against SGD.",
    ),
    Claim(
        name="precision_reduces", group="abstract", study=_RUNS,
        judge=partial(reduces, column="precision", weak="fp16_rounded", strong="fp32",
                      words=("in fp16 (rounded)", "in fp32")),
        text="More precision reduces the influence of the Jacobian.",
        rule="As for batch norm, fp32 against fp16 (rounded after each operation).",
    ),
    Claim(
        name="4.1 blended forward", group="instrument", study="beyond/forward_arm", judge=forwards,
        text="The published operator changes the forward pass: in 16 bits its rounding, not the Jacobian, "
        "destroys training at beta = 10^3.",
        rule="Supported at a beta if more runs are lost with the blended forward than with the exact one "
        "(Fisher, one-sided, Holm); contradicted if neither loses one of three runs or more. In 16 bits.",
    ),
    Claim(
        name="4.2 swapped arguments", group="instrument", study="paper/zones_by_precision",
        judge=never_all_zero,
        text="The published histograms with every gap exactly 0 in 32 and 64 bits do not compare beta = 0 "
        "with 1: that comparison is not always 0 on MNIST.",
        rule="Supported if some draws of beta = 0 against 1 on MNIST have a gap that is not 0.",
    ),
    Claim(
        name="4.3 flat patches", group="instrument", study="paper/zones_by_precision", judge=flat_ties,
        text="Ties that act come from flat image regions: those above zero are in the first pool.",
        rule="Supported if more than 99 % of the windows tied above zero are in the first pool, or there "
        "are none; in 32 and 64 bits.",
    ),
    Claim(
        name="4.4 thresholds", group="instrument", study="paper/zones_by_precision", judge=built_in,
        text="That formats differ is built into their absolute thresholds.",
        rule="Supported if formats differ by the published thresholds (two 95 % intervals that do not meet) "
        "and not by the relative one; contradicted if they differ by both.",
    ),
    Claim(
        name="4.5 batch norm", group="instrument", study="paper/zones_by_batch_norm", judge=batch_norm_zones,
        text="That zones are larger with batch norm is an effect of the absolute threshold.",
        rule="Share with batch norm minus without, paired by initialisation: supported if it is above 0 by "
        "the published threshold (t, Holm over both recipes) and the interval by the relative one lies "
        "below it; contradicted if it lies above.",
    ),
    Claim(
        name="4.6 one initialisation", group="instrument", study="paper/zones_by_depth", judge=one_init,
        text="One initialisation says little: shares of others lie further apart than the interval of its "
        "mini-batches (6.9 points to each side) allows.",
        rule="Supported if the shares of our initialisations span more than twice that; our shares are of "
        "fewer mini-batches, whose number is given.",
    ),
    Claim(
        name="4.8 Adam in fp16", group="instrument", study="beyond/adam_eps", judge=epsilon,
        text="Adam with epsilon 1e-8 divides by zero in fp16, whatever the Jacobian.",
        rule="Supported if 1e-8 is 0 in fp16.",
    ),
    Claim(
        name="4.11 ranks", group="instrument", study="paper/imagenet_resnet50", judge=_nothing,
        text="Ranks of the published ImageNet runs start from different weights; ours refuse to.",
        rule="A test with several processes.",
        test="tests/protocols/test_ranks.py",
    ),
    Claim(
        name="4.12 DenseNet", group="instrument", study="paper/accuracy_by_beta", judge=_nothing,
        text="'Batch norm' of the published DenseNet121 is in 2 of its 121 layers.",
        rule="Parameter counts of both networks.",
        test="tests/models/test_build.py",
    ),
    Claim(
        name="4.13 ReLU", group="instrument", study="", judge=_nothing,
        text="The predecessor's ReLU drops the upstream gradient at 0; ours keeps it.",
        rule="A test of the gradient.",
        test="tests/numerics/test_relu.py",
    ),
    Claim(
        name="7.8 dithered inputs", group="instrument", study="beyond/dither", judge=dithered,
        text="With noise on the input the gap between beta = 0 and 1 is exactly 0 in fp32 at initialisation.",
        rule="Supported if every draw has a gap of exactly 0.",
    ),
)  # fmt: skip
"""Every claim, those of the abstract first."""
