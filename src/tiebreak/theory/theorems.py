"""A check for each theorem, point by point on small networks, and for each a control that has to fail.

The statements are proved in docs/theory.md unless it says otherwise; a check is there to catch what a proof
overlooks: an assumption, a program, a rule of AD. Each asks the oracle about touched points, or the
enumeration where there are too many. A control drops one assumption: were it to pass, the check would see
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import partial

from tiebreak.design.correctness import Statement
from tiebreak.theory import bounds, families
from tiebreak.theory.activations import (
    ABS,
    HARDSIGMOID,
    HARDTANH,
    IDENTITY,
    LEAKY_RELU,
    RELU,
    RELU6,
    Rules,
    Side,
    Ties,
)
from tiebreak.theory.linear_programs import Vector
from tiebreak.theory.machine import MachineSet, format_of, integers, numbers_of
from tiebreak.theory.network import Activation, Network
from tiebreak.theory.oracle import Judgement, Kind, differentiate, selections
from tiebreak.theory.trials import (
    Check,
    Ground,
    Holds,
    Place,
    counts_equal,
    has_own_directions,
    over_points,
    share_at_most,
)


def _constant(proxy: int | str) -> Rules:
    return Rules(proxy=Fraction(proxy))


_LEFT, _RIGHT = Rules(proxy=Side.LEFT), Rules(proxy=Side.RIGHT)
_ANY = (_constant(0), _constant("1/2"), _constant(1), _constant(2), _constant(-1), _LEFT, _RIGHT)
_BETWEEN = (_constant(0), _constant("1/2"), _constant(1))
_OUTSIDE = (_constant(2), _constant(-1))


# ---- the networks ------------------------------------------------------------------------------------------


def biased_networks() -> tuple[Place, ...]:
    """Networks whose neurons have biases of their own, small enough for the oracle."""
    fp4, m3, m5 = format_of("e2m1").machine_set(), integers(1), integers(2)
    return (
        (families.sum_of_neurons(RELU, count=2), fp4),
        (families.sum_of_neurons(HARDSIGMOID, count=2), integers(3)),
        (families.hidden_layer(RELU), m5),
        (families.hidden_layer(HARDTANH), m5),
        (families.two_layers(RELU), m3),
        (families.two_layers(ABS), m3),
        (families.two_layers(RELU6), numbers_of([-6, 0, 6])),
        (families.residual(RELU), m3),
    )


def _within(places: Sequence[Place]) -> tuple[Place, ...]:
    """Those whose functions have 0, 1/2 and 1 between the one-sided derivatives at every kink."""
    functions = (RELU, HARDTANH, RELU6)
    return tuple(p for p in places if all(n.function in functions for n in p[0].activations))


def unbiased_networks() -> tuple[Place, ...]:
    """Networks with shared biases, tied weights or none, small enough for the oracle."""
    fp4, m3, m5 = format_of("e2m1").machine_set(), integers(1), integers(2)
    return (
        (families.plus_minus(), fp4),
        (families.plus_minus(HARDTANH), fp4),
        (families.product_plus_minus(), m5),
        (families.product_neuron(), fp4),
        (families.fully_connected([IDENTITY, RELU, IDENTITY], [1, 2, 1]), m3),
        (families.fully_connected([RELU, RELU], [1, 1]), fp4),
        (families.minibatch(HARDTANH, (1, -1)), fp4),
        (families.minibatch(LEAKY_RELU, (1, 0, -1)), fp4),
    )


def relu_networks() -> tuple[Place, ...]:
    """Fully connected networks of ReLU neurons only, each weight its own."""
    m3, m5, signs = integers(1), integers(2), numbers_of([-1, 1])
    shapes = ((m5, (1, 1), (1,)), (m5, (1, 1, 1), (1,)), (m3, (2, 1), (1,)), (m3, (2, 1), (1, -1)))
    shapes += (
        (m3, (1, 2, 1), (1,)),
        (signs, (2, 2, 1), (1,)),
        (signs, (3, 1), (1,)),
        (m3, (1, 1, 1), (1, 1)),
    )
    return tuple(
        (families.fully_connected([RELU] * len(widths), widths, inputs=inputs), machine)
        for machine, widths, inputs in shapes
    )


# ---- what is asked of a point ------------------------------------------------------------------------------


def _never_wrong(_network: Network, _point: Vector, found: Judgement) -> bool:
    return found.kind is not Kind.INCORRECT


def _live_iff_singular(_network: Network, _point: Vector, found: Judgement) -> bool:
    return found.by_ad.is_live == (found.kind is Kind.NOT_DIFFERENTIABLE)


def _live_before_iff_singular(network: Network, _point: Vector, found: Judgement) -> bool:
    """The same with the adjoint of the neuron's argument in the place of its value's."""
    arguments = [n.argument for k in found.by_ad.touched if isinstance(n := network.nodes[k], Activation)]
    is_live = any(found.by_ad.adjoints[argument] for argument in arguments)
    return is_live == (found.kind is Kind.NOT_DIFFERENTIABLE)


def _in_hull(_network: Network, _point: Vector, found: Judgement) -> bool:
    return found.is_in_hull


def _singular_in_hull(_network: Network, _point: Vector, found: Judgement) -> bool | None:
    return found.is_in_hull if found.kind is Kind.NOT_DIFFERENTIABLE else None


def _all_selections(network: Network, point: Vector, found: Judgement) -> bool:
    return set(found.cells) == set(selections(network, point))


def _dead_is_right(_network: Network, _point: Vector, found: Judgement) -> bool | None:
    return None if found.by_ad.is_live else found.kind is Kind.CORRECT


def _live_is_wrong(_network: Network, _point: Vector, found: Judgement) -> bool | None:
    return found.kind is not Kind.CORRECT if found.by_ad.is_live else None


def _forks_iff_singular(network: Network, point: Vector, found: Judgement) -> bool:
    other = differentiate(network, point, rules=_constant(1)).gradient
    return (found.by_ad.gradient != other) == (found.kind is Kind.NOT_DIFFERENTIABLE)


def _own_directions_suffice(network: Network, point: Vector, found: Judgement) -> bool | None:
    if not has_own_directions(network, point, found.by_ad.touched):
        return None
    same = set(found.cells) == set(selections(network, point))
    return same and found.kind is not Kind.INCORRECT and _live_iff_singular(network, point, found)


def _a_limit(_network: Network, _point: Vector, found: Judgement) -> bool:
    return found.kind is not Kind.INCORRECT and found.by_ad.gradient in found.cells


# ---- the statements ----------------------------------------------------------------------------------------

_Count = tuple[Network, MachineSet, Rules, tuple[int, int]]
"""A network with its machine set, rules, and how many points are (not differentiable, incorrect)."""


def _at_points(places: Iterable[Place], rules: Sequence[Rules], holds: Holds) -> tuple[Ground, ...]:
    return tuple(
        Ground(network, machine, partial(over_points, network, machine, rules=rules, holds=holds))
        for network, machine in places
    )


def _below(
    places: Iterable[Place], bound: Callable[[Network, MachineSet], Fraction], *, rules: Rules
) -> tuple[Ground, ...]:
    return tuple(
        Ground(
            network,
            machine,
            partial(share_at_most, network, machine, bound=bound(network, machine), rules=rules),
        )
        for network, machine in places
    )


def _counted(counts: Iterable[_Count]) -> tuple[Ground, ...]:
    return tuple(
        Ground(network, machine, partial(counts_equal, network, machine, rules=rules, expected=expected))
        for network, machine, rules, expected in counts
    )


def checks() -> tuple[Check, ...]:
    """Every theorem and every control, in the order of docs/theory.md."""
    fp4, m5, m7 = format_of("e2m1").machine_set(), integers(2), integers(3)
    biased, unbiased, relus = biased_networks(), unbiased_networks(), relu_networks()
    headline = (families.fully_connected([IDENTITY, RELU, IDENTITY], [1, 2, 1]), m5)
    two_relus = (families.fully_connected([RELU, RELU], [1, 1]), fp4)
    pooled = ((families.pooled_neurons(), integers(1)),)
    enumerated = (
        (families.sum_of_neurons(RELU, count=3), fp4),
        (families.sum_of_neurons(HARDTANH, count=3), fp4),
        (families.hidden_layer(RELU, count=2), m5),
        (families.hidden_layer(HARDTANH, count=2), m5),
        (families.two_layers(RELU), m5),
        (families.two_layers(RELU6), numbers_of([-6, -1, 0, 1, 6])),
    )
    products = ((families.product_neuron(), fp4),)
    structured = ((families.plus_minus(), fp4), (families.stairs(fp4), fp4))
    structured += ((families.product_plus_minus(), fp4), *products, headline, two_relus)
    windows = (
        (families.two_windows_with_biases(), integers(1)),
        (families.maximum_of(2), fp4),
        (families.maximum_of(3), m5),
    )
    shared = ((families.two_windows(), fp4), (families.convolution_and_pool((0, 1, 0, 1)), m5))
    batches = (
        (families.minibatch(HARDTANH, (1, -1)), fp4),
        (families.minibatch(HARDSIGMOID, (3, -3)), fp4),
        (families.minibatch(RELU6, (0, 6)), fp4),
    )
    geometric = numbers_of([0, *(sign * 2**k for sign in (-1, 1) for k in range(9))], name="powers of 2")
    by_ties = tuple(Rules(ties=ties) for ties in Ties)
    zero = _constant(0)
    tight: list[_Count] = [
        (
            families.sum_of_neurons(function, count=n),
            fp4,
            Rules(),
            (bounds.singular_sum(15, kinks=k, count=n), 0),
        )
        for function, k in ((RELU, 1), (HARDTANH, 2))
        for n in (1, 2, 3, 4)
    ]
    closed: list[_Count] = [
        (families.plus_minus(), fp4, _LEFT, (0, 1)),
        (families.stairs(fp4), fp4, _LEFT, (0, 15)),
        (families.stairs(m7), m7, _LEFT, (0, 7)),
        (families.product_plus_minus(), fp4, _LEFT, (0, 28)),
        (families.product_neuron(), fp4, _LEFT, (28, 0)),
        (*two_relus, _RIGHT, (14, 7)),
    ]
    maxima: list[_Count] = [
        (families.maximum_of(n), machine, Rules(), (bounds.singular_maximum(len(machine), count=n), 0))
        for n, machine in ((2, fp4), (3, fp4), (4, m7))
    ]
    made: list[Check] = []

    def state(statement: Statement, theorem: str, words: str, grounds: tuple[Ground, ...]) -> None:
        made.append(
            Check(
                statement=statement,
                theorem=theorem,
                words=words,
                is_control=theorem.endswith("control"),
                grounds=grounds,
            )
        )

    state(
        Statement.T1,
        "T1",
        "with biases AD is never wrong, whatever it takes at kinks",
        _at_points(biased, _ANY, _never_wrong),
    )
    state(
        Statement.T1_TIED_WEIGHTS,
        "T1 control",
        "the same with tied weights",
        _at_points([(families.plus_minus(), fp4)], _ANY, _never_wrong),
    )
    state(
        Statement.T2,
        "T2",
        "with biases the share of singular points is at most kinks / |M|",
        _below(enumerated, bounds.most_touched, rules=zero),
    )
    state(
        Statement.T2_PRODUCT,
        "T2'",
        "and at most 1 - prod (1 - kinks / |M|)",
        _below(enumerated, bounds.most_touched_product, rules=zero),
    )
    state(Statement.T3, "T3", "a sum of neurons attains T2'", _counted(tight))
    state(
        Statement.T4,
        "T4",
        "with biases f is singular where a touched neuron has an adjoint other than 0, and only there",
        _at_points(biased, _ANY, _live_iff_singular),
    )
    state(
        Statement.T4_ARGUMENT,
        "T4 control",
        "the same with the adjoint of the argument",
        _at_points(biased, [zero], _live_before_iff_singular),
    )
    state(
        Statement.T4_BEHIND_POOL,
        "T4 control",
        "the same behind a max pool",
        _at_points(pooled, [zero], _live_iff_singular),
    )
    state(
        Statement.T5,
        "T5",
        "with biases and one-sided derivatives at kinks, or between, AD is in the Clarke subdifferential",
        _at_points(_within(biased), (*_BETWEEN, _LEFT, _RIGHT), _in_hull),
    )
    state(
        Statement.T5_OUTSIDE,
        "T5 control",
        "the same with 2 or -1 at kinks",
        _at_points(_within(biased), _OUTSIDE, _singular_in_hull),
    )
    state(
        Statement.T5_SIDES,
        "T5'",
        "with biases every choice of sides is the gradient on an open cone",
        _at_points(biased, [Rules()], _all_selections),
    )
    state(
        Statement.T5_SIDES_WITHOUT_BIAS,
        "T5' control",
        "the same without biases",
        _at_points(unbiased[4:5], [Rules()], _all_selections),
    )
    state(
        Statement.T6,
        "T6",
        "with biases 0 and 1 at ReLU's kink differ at singular points, and only there",
        _at_points(
            [p for p in biased if all(n.function is RELU for n in p[0].activations)],
            [zero],
            _forks_iff_singular,
        ),
    )
    state(
        Statement.T7,
        "T7",
        "without biases the share of singular or wrong points is at most kinks and edges of zero / |M|",
        _below(structured, bounds.most_failing, rules=_LEFT),
    )
    state(
        Statement.T7_WITHOUT_EDGES,
        "T7 control",
        "the same without the edges of zero",
        _below(products, partial(bounds.most_failing, edges=False), rules=zero),
    )
    state(
        Statement.T7_TWO_INPUTS,
        "T7 control",
        "the same where a weight multiplies two inputs",
        _below([(families.weighted_differences(), geometric)], bounds.most_failing, rules=zero),
    )
    state(
        Statement.T8,
        "T8",
        "without biases AD can be wrong, up to everywhere: counts in closed form",
        _counted(closed),
    )
    state(
        Statement.T9,
        "T9",
        "in every network AD is right where no touched node has an adjoint that is not 0",
        _at_points((*biased[:4], *unbiased, *pooled), _ANY, _dead_is_right),
    )
    state(
        Statement.T9_CONVERSE,
        "T9 control",
        "and only there, without biases",
        _at_points(unbiased, [zero, _constant("1/2")], _live_is_wrong),
    )
    state(
        Statement.T10,
        "T10",
        "T1, T4 and T5' hold where each touched neuron has a weight of its own on an input that is not 0",
        _at_points((*biased, *unbiased[2:6]), _BETWEEN, _own_directions_suffice),
    )
    state(
        Statement.T11,
        "T11",
        "without biases, ReLU neurons only: with 0 at kinks AD is a limit of gradients",
        _at_points(relus, [zero], _a_limit),
    )
    state(
        Statement.T11_ONE,
        "T11 control",
        "the same with 1 at kinks",
        _at_points(relus, [_constant(1)], _a_limit),
    )
    state(
        Statement.P1,
        "P1",
        "a max pool over values with biases of their own: AD is never wrong",
        _at_points(windows, by_ties, _never_wrong),
    )
    state(
        Statement.P1_HULL,
        "P1'",
        "and in the Clarke subdifferential",
        _at_points(windows, by_ties, _in_hull),
    )
    state(
        Statement.P1_SHARED_BIAS,
        "P1 control",
        "the same over values that share a bias",
        _at_points(shared, by_ties[:2], _never_wrong),
    )
    state(
        Statement.P1_SPLIT,
        "P1 control",
        "the same for the even split, with entries that repeat",
        _at_points([(families.repeated_entries(), fp4)], by_ties[2:], _never_wrong),
    )
    state(
        Statement.P2,
        "P2",
        "max(b_1, ..., b_n) is singular at |M|^n - n sum r^(n-1) points",
        _counted(maxima),
    )
    state(
        Statement.B1,
        "B1",
        "a batch with one bias and the same side at all kinks: AD is a limit of gradients",
        _at_points(batches, (_LEFT, _RIGHT), _a_limit),
    )
    state(
        Statement.B1_ZERO,
        "B1 control",
        "the same with 0 at both kinks",
        _at_points(batches, [zero], _a_limit),
    )
    return tuple(made)


def check_of(statement: Statement) -> Check:
    """The check of one statement.

    Args:
        statement: which.
    """
    return next(check for check in checks() if check.statement is statement)
