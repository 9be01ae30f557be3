"""Claims of the paper's abstract, defects of its instrument, and checks of a repetition, each with a rule.

Each rule is in the text of its claim, was written before these studies were complete, and stands on the
page; where one was changed afterwards it says so or the changelog does. The tests of a difference of one
claim are one family, its tests of sameness another (Holm, level 0.05). A claim that speaks of several
formats or forward passes has a verdict for each; none rests on fewer than three runs or five
initialisations.
"""

from __future__ import annotations

from functools import partial

import pandas as pd

from tiebreak.report import acceptance, published_claims
from tiebreak.report.findings import Claim, Finding, Standing, Tables, of_studies
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
from tiebreak.report.stand_in import alike
from tiebreak.report.training_claims import forwards, high_norms, low_norms, reduces, single_errors


def claim_table(tables: Tables) -> pd.DataFrame:
    """Every claim with its findings, one row a finding; a claim without records has one that says so.

    Args:
        tables: those of the paper; `verdicts`, if there, is what claims about published numbers read.

    Returns:
        `claim`, `group`, `text`, `rule`, `studies`, `where`, `verdict`, `numbers` and `command`: what to type
        for the records that a claim still lacks, empty where none are missing.
    """
    plan = tables.get("plan", pd.DataFrame())
    rows = []
    for claim in CLAIMS:
        known = of_studies(tables, *claim.studies)
        if "verdicts" in tables:
            known["published"] = tables["verdicts"]
        findings = [*claim.judge(known), *_tests(claim)]
        if not findings:
            said = f"no record of {' or '.join(claim.studies)}"
            findings = [Finding(where="", standing=Standing.NOT_RUN, numbers=said)]
        rows += [
            {
                "claim": claim.name,
                "group": claim.group,
                "text": claim.text,
                "rule": claim.rule,
                "studies": ", ".join(claim.studies),
                "where": finding.where,
                "verdict": str(finding.standing),
                "numbers": finding.numbers,
                "command": _next_command(claim, plan),
            }
            for finding in findings
        ]
    return pd.DataFrame(rows)


def _tests(claim: Claim) -> list[Finding]:
    """What tests hold, whatever was recorded."""
    if not claim.tests:
        return []
    return [Finding(where="whatever the records", standing=Standing.HELD, numbers=", ".join(claim.tests))]


def _next_command(claim: Claim, plan: pd.DataFrame) -> str:
    """The first part of the claim's studies that is begun and not complete or, without one, not begun."""
    if not len(plan) or not claim.studies:
        return ""
    parts = plan[plan["study"].isin(claim.studies) & (plan["num_done"] < plan["num_trials"])]
    begun = parts[parts["num_done"] > 0]
    chosen = begun if len(begun) else parts
    return str(chosen.iloc[0]["command"]) if len(chosen) else ""


_RUNS = "paper/accuracy_by_beta"
CLAIMS = (
    Claim(
        name="ae_derivative", group="abstract", studies=("certified_vs_threshold",), judge=over_the_reals,
        text="Backpropagation with either rule is the derivative almost everywhere over the reals.",
        rule="Supported for a format if no certified draw has different derivatives and none is undecided. "
        "A finite sample cannot refute 'almost everywhere': a format whose draws differ is undecided, and "
        "its parameters lie on a coarse grid, which is not almost every point.",
    ),
    Claim(
        name="zones_by_threshold", group="abstract", studies=("certified_vs_threshold",),
        judge=threshold_tells,
        text="A threshold on the gap separates the bifurcation zone (wrong over the reals) from the "
        "compensation zone (rounding).",
        rule="Contradicted by one false alarm or one miss among certified draws; supported if there is a "
        "true alarm and neither.",
    ),
    Claim(
        name="low_norm", group="abstract", studies=(_RUNS,), judge=low_norms,
        text="Jacobians of low norm keep the accuracy.",
        rule="beta = 1 and 10 against 0, paired by replicate (mean of the networks with and without batch "
        "norm): supported if each mean lies within 0.5 points (two one-sided t tests, Holm) and no more "
        "runs are lost; contradicted if one lies beyond (t test) or more runs are lost (Fisher, one-sided), "
        "Holm over both. Runs that were lost are in no mean.",
    ),
    Claim(
        name="high_norm", group="abstract", studies=(_RUNS,), judge=high_norms,
        text="Jacobians of high norm make training unstable.",
        rule="beta = 10^3 and 10^4 against 0: supported if more runs diverge or stay at chance (Fisher, "
        "one-sided) or the accuracy of the others falls (paired t), Holm over all; contradicted if no run "
        "is lost and both means lie within 0.5 points (two one-sided t tests, Holm).",
    ),
    Claim(
        name="batch_norm_reduces", group="abstract", studies=(_RUNS,),
        judge=partial(reduces, column="batch_norm", weak=False, strong=True,
                      words=("without", "with batch norm")),
        text="Batch norm reduces the influence of the Jacobian.",
        rule="Influence: accuracy lost to beta >= 100 in a replicate, runs that diverged scored at chance. "
        "Supported if it is smaller with batch norm (paired t over replicates, Holm); contradicted if it is "
        "larger, or the same within 0.5 points (two one-sided t tests, Holm); undecided where the accuracy "
        "lost without it is itself within 0.5 points of 0: there is nothing to reduce.",
    ),
    Claim(
        name="adam_reduces", group="abstract", studies=(_RUNS,),
        judge=partial(reduces, column="optimizer", weak="sgd", strong="adam",
                      words=("with SGD", "with Adam")),
        text="Adam-like optimizers reduce the influence of the Jacobian.",
        rule="As for batch norm, Adam against SGD.",
    ),
    Claim(
        name="precision_reduces", group="abstract", studies=(_RUNS,),
        judge=partial(reduces, column="precision", weak="fp16_rounded", strong="fp32",
                      words=("in fp16 (rounded)", "in fp32")),
        text="More precision reduces the influence of the Jacobian.",
        rule="As for batch norm, fp32 against fp16 (rounded after each operation).",
    ),
    Claim(
        name="4.1 blended forward", group="instrument", studies=("beyond/forward_arm",), judge=forwards,
        text="The published operator changes the forward pass: in 16 bits it loses runs at beta = 10^3 that "
        "the same Jacobian keeps with an exact one.",
        rule="Supported if more runs are lost with the blended forward than with the exact one (Fisher, "
        "one-sided, Holm); contradicted if neither loses one of three runs or more. In 16 bits. It compares "
        "two forward passes under one large Jacobian; the next claim has each rounding error with PyTorch's.",
    ),
    Claim(
        name="4.1 one error alone", group="instrument", studies=("beyond/forward_arm",), judge=single_errors,
        text="One rounding error of the published operator, of its value or of its gradient, is enough at "
        "beta = 10^3, with PyTorch's rule at ties. (Asked after the records were seen.)",
        rule="Contradicted if all of the operator loses more runs than the error alone (Fisher, one-sided, "
        "Holm); supported if the error alone loses every run. In 16 bits.",
    ),
    Claim(
        name="4.2 swapped arguments", group="instrument", studies=("paper/zones_by_precision",),
        judge=never_all_zero,
        text="The published histograms with every gap exactly 0 in 32 and 64 bits do not compare beta = 0 "
        "with 1: that comparison is not always 0 on MNIST.",
        rule="Supported if some draws of beta = 0 against 1 on MNIST have a gap that is not 0.",
    ),
    Claim(
        name="4.3 flat patches", group="instrument", studies=("paper/zones_by_precision",), judge=flat_ties,
        text="Ties that act come from flat image regions: those above zero are in the first pool.",
        rule="Supported if more than 99 % of the windows tied above zero are in the first pool, or there "
        "are none; in 32 and 64 bits.",
    ),
    Claim(
        name="4.4 thresholds", group="instrument", studies=("paper/zones_by_precision",), judge=built_in,
        text="That formats differ is built into their absolute thresholds.",
        rule="Supported if formats differ by the published thresholds (two 95 % intervals that do not meet) "
        "and not by the relative one; contradicted if they differ by both.",
    ),
    Claim(
        name="4.5 batch norm", group="instrument", studies=("paper/zones_by_batch_norm",),
        judge=batch_norm_zones,
        text="That zones are larger with batch norm is an effect of the absolute threshold.",
        rule="Share with batch norm minus without, paired by initialisation: supported if it is above 0 by "
        "the published threshold (t, Holm over both recipes) and the interval by the relative one lies "
        "below it; contradicted if it lies above.",
    ),
    Claim(
        name="4.6 one initialisation", group="instrument", studies=("paper/zones_by_depth",), judge=one_init,
        text="One initialisation says little: shares of others lie further apart than the interval of its "
        "mini-batches (6.9 points to each side) allows.",
        rule="Supported if the shares of ten of our initialisations or more span more than twice that, and "
        "differ by more than their own mini-batches, of which each has fewer, explain (chi-square test of "
        "one share, Holm). (The test was added after the shares were seen: their span alone is no evidence.)",
    ),
    Claim(
        name="4.7 learning rates", group="instrument", studies=("beyond/per_beta_lr",),
        judge=published_claims.searches,
        text="Learning rates were searched on the test set, for beta = 0, and used for every beta, also "
        "where the search had found none that learns.",
        rule="Searches: supported if a rate that was used won with the accuracy of the commonest class. "
        "Rates of their own, ours, on held-out images: supported where they save runs (Fisher, one-sided) "
        "or raise the accuracy (paired t), Holm; contradicted where as many are lost and the means lie "
        "within 0.5 points.",
    ),
    Claim(
        name="4.8 Adam in fp16", group="instrument", studies=("beyond/adam_eps", _RUNS), judge=epsilon,
        text="Adam with epsilon 1e-8 divides by zero in fp16, whatever the Jacobian.",
        rule="That it divides by zero: supported if 1e-8 rounds to 0 in fp16. That the epsilon is the cause: "
        "supported where three runs or more with one that fp16 holds all reach the end.",
    ),
    Claim(
        name="4.9 plots", group="instrument", studies=(_RUNS,), judge=published_claims.hidden_failures,
        text="The published figures of accuracy leave out runs that ended in NaN and cut off those at "
        "chance.",
        rule="Supported if there are such runs among the published ones.",
    ),
    Claim(
        name="4.10 histograms", group="instrument", studies=("paper/zones_by_precision",),
        judge=published_claims.beyond_the_bins,
        text="The published histograms name a decade by its upper edge and drop gaps of 0.1 and more from "
        "their denominator; ours name it by the lower edge and hold every draw.",
        rule="Supported for a format if a draw of ours would be dropped; undecided where none would. Our "
        "bins are a test.",
        tests=(
            "tests/report/test_zones.py::test_histogram_counts_every_draw_once",
            "tests/report/test_zones.py::test_no_draw_is_lost_where_the_published_bins_end",
        ),
    ),
    Claim(
        name="4.11 ranks", group="instrument", studies=("paper/imagenet_resnet50",),
        text="Ranks of the published ImageNet runs start from different weights; ours refuse to.",
        rule="A test with several processes.",
        tests=("tests/protocols/test_ranks.py::test_other_weights_on_one_rank_are_refused_at_the_start",),
    ),
    Claim(
        name="4.12 DenseNet", group="instrument",
        text="'Batch norm' of the published DenseNet121 is in 2 of its 121 layers.",
        rule="Parameter counts of both networks.",
        tests=("tests/models/test_build.py::test_published_parameter_counts",),
    ),
    Claim(
        name="4.13 ReLU", group="instrument",
        text="The predecessor's ReLU drops the upstream gradient at 0; ours keeps it.",
        rule="A test of the gradient.",
        tests=("tests/numerics/test_relu.py::test_upstream_gradient_at_zero_is_kept",),
    ),
    Claim(
        name="4.14 what was right", group="instrument",
        text="Not at fault: the minimal rule's forward pass, counts of maxima in 16 bits, signed zeros "
        "among the maxima, and NaN in a window.",
        rule="Tests of our kernels against a slow twin, bit for bit.",
        tests=(
            "tests/numerics/test_pooling.py::test_minimal_rule_is_the_gradient_of_amax",
            "tests/numerics/test_pooling.py::test_nan_and_signed_zeros_are_pinned",
        ),
    ),
    Claim(
        name="4.15 no pairs", group="instrument",
        text="The published runs have no seeds, so arms are not paired, and a run cannot be taken up "
        "again; ours are and can.",
        rule="Tests of the start, the order and the resumption of a run, bit for bit.",
        tests=(
            "tests/models/test_build.py::test_weights_depend_on_arch_init_and_seed_only",
            "tests/data/test_batches.py::test_order_depends_on_the_order_seed_and_the_epoch_only",
            "tests/protocols/test_train.py::test_resumed_at_every_step_gives_the_same_rows",
        ),
    ),
    Claim(
        name="fp16 rounded", group="stand_in", studies=(_RUNS,), judge=alike,
        text="fp16 rounded after each operation ends as the device's own fp16 does, although that rounds "
        "partial sums of its convolutions in the backward pass.",
        rule="Pairs of runs with the same setting, start and batches; the pairs of one start count once, "
        "three starts are needed. Supported if the same runs are lost and the accuracies of the others lie "
        "within 0.5 points (two one-sided t tests, Holm); contradicted if one side loses more (exact sign "
        "test) or they lie beyond (t), Holm over both. (Written before the runs in fp16 were seen; that "
        "starts are counted and not pairs was added after.)",
    ),
    Claim(
        name="7.1 constants", group="acceptance", studies=("paper/zero_program",), judge=acceptance.constants,
        text="The derivatives of the programs that compute 0 are the published constants.",
        rule="Agrees if every derivative is equal in every bit.",
    ),
    Claim(
        name="7.2 two rules", group="acceptance",
        text="beta = 0 has the bits of PyTorch's max-pooling, forward and backward; beta = 1 those of amax's "
        "gradient.",
        rule="Tests in every format.",
        tests=(
            "tests/numerics/test_pooling.py::test_native_rule_is_pytorch_bit_for_bit",
            "tests/numerics/test_pooling.py::test_minimal_rule_is_the_gradient_of_amax",
        ),
    ),
    Claim(
        name="7.3 rows and norms", group="acceptance", judge=acceptance.norms,
        text="Rows of the Jacobian sum to 1, and its norms are those that follow from the published "
        "definition.",
        rule="Agrees if every norm has the same three digits; every given digit and the sums are tests.",
        tests=("tests/numerics/test_pooling.py::test_entries_sum_to_one_and_have_the_norm_of_the_design",),
    ),
    Claim(
        name="7.4 exact forward", group="acceptance",
        text="The exact arm's value is the maximum, bit for bit, for every beta and format.",
        rule="A test over shapes, formats and rules.",
        tests=("tests/numerics/test_pooling.py::test_value_is_the_maximum_whatever_the_rule",),
    ),
    Claim(
        name="7.5 blended forward", group="acceptance",
        text="The blended arm has the rounding errors of the published operator: medians, extremes, zeros "
        "and the sizes from which on it overflows.",
        rule="A test for each number, within what rounding of its last digit allows; no device is involved.",
        tests=("tests/numerics/test_pooling_blended.py",),
    ),
    Claim(
        name="7.6 zone shares", group="acceptance", judge=acceptance.zone_shares,
        studies=(
            "paper/zones_by_precision", "paper/zones_by_depth", "paper/zones_by_batch_size",
            "paper/zones_by_batch_norm",
        ),
        text="Shares of mini-batches above the published thresholds: none in 64 bits, all in 16, about "
        "half in 32 for VGG11, growing with the batch and with batch norm. Reported, not passed.",
        rule="Agrees if the published initialisations of a setting lie within the range of ten or more of "
        "ours, which is the wider the fewer mini-batches each has and must leave something out; differs if "
        "they lie outside, all on one side, and are improbable there under every distribution that ours "
        "leave possible. A factor: its largest level minus its smallest, paired by initialisation (t), "
        "agrees in direction or differs. Holm over all of both.",
    ),
    Claim(
        name="7.7 accuracies", group="acceptance", studies=(_RUNS,), judge=acceptance.accuracies,
        text="Accuracies in 32 bits are the published ones up to beta = 10^3; in 16 bits the blended forward "
        "diverges in the first epoch from beta = 10^3 on (LeNet-5, VGG11), and ResNet18 survives 10^3.",
        rule="The verdicts of the published means together; fp16: agrees if each of three runs or more "
        "diverges in its first epoch, differs if one reaches the end.",
    ),
    Claim(
        name="7.8 dithered inputs", group="acceptance", studies=("beyond/dither",), judge=dithered,
        text="With noise on the input the gap between beta = 0 and 1 is exactly 0 in fp32 at initialisation, "
        "unless a true tie occurs.",
        rule="Supported if every draw without a live tie has a gap of exactly 0; contradicted by one that "
        "has not.",
    ),
)  # fmt: skip
"""Every claim, those of the abstract first."""
