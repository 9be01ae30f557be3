"""What the norms of one difference have to do with each other, whatever the difference was.

The gap of a floating-point program cannot be measured again from a certificate: its gradients are not there.
But the norms that were recorded are norms of one vector in n entries and t tensors, so for each rule

    sup <= l2 <= l1,   sup <= sup_sum <= l1,   l1 <= sqrt(n) l2,   l2 <= sqrt(n) sup,   l1 <= n sup,
    sup_sum <= sqrt(t) l2,   sup_sum <= t sup,   l2**2 <= l1 sup,

none is below 0, all of them are 0 or none is, and l2 / relative, the norm of PyTorch's gradient, is the same
for every rule. An edit within these bounds is not found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from tiebreak.exact.files import FloatGap

_NORMS = ("l1", "l2", "sup_sum", "sup")


def broken_relations(
    gaps: Mapping[str, FloatGap], *, parameters: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, str]]:
    """The fields that cannot be what they say.

    Args:
        gaps: by rule.
        parameters: shape of every tensor that the norms are over.

    Yields:
        `<rule>.<field>`, and what is wrong in words.

    Example:
        >>> gap = FloatGap(l1=2.0, l2=5.0, sup_sum=1.0, sup=1.0, relative=0.5, nonfinite=False)
        >>> [field for field, _ in broken_relations({"minimal": gap}, parameters={"weight": (4,)})]
        ['minimal.l2']
    """
    number = sum(math.prod(shape) for shape in parameters.values())
    for rule, gap in gaps.items():
        for name, problem in _of_one(gap, number, len(parameters)):
            yield f"{rule}.{name}", problem
    yield from _of_all(gaps)


def _of_one(gap: FloatGap, number: int, tensors: int) -> Iterator[tuple[str, str]]:
    norms = {name: getattr(gap, name) for name in _NORMS}
    negative = [name for name in (*_NORMS, "relative") if getattr(gap, name) < 0]
    for name in negative:
        yield name, f"it is {getattr(gap, name)}, and a norm is never below 0"
    if negative:
        return
    infinite = [name for name in _NORMS if not math.isfinite(norms[name])]
    if not gap.nonfinite:
        infinite += ["relative"] if math.isnan(gap.relative) else []
        for name in infinite:
            yield name, f"it is {getattr(gap, name)}, and nonfinite says that every gradient is finite"
    elif not infinite and gap.relative != 0:  # infinities that both gradients share have relative = x / inf
        yield "nonfinite", "it says that a gradient is not finite, and every norm is"
    if not infinite:
        broken = dict(_between(norms, number, tensors))
        yield from broken.items()
        if "l2" not in broken:
            yield from _relative(gap, number)


def _between(norms: Mapping[str, float], number: int, tensors: int) -> Iterator[tuple[str, str]]:
    """Relations of finite norms; blamed is what has a part in every one that is broken."""
    zeros = {name for name in _NORMS if norms[name] == 0}
    if 0 < len(zeros) < len(_NORMS):
        others = set(_NORMS) - zeros
        for name in sorted(min(zeros, others, key=len)):
            yield name, f"it is {norms[name]:.6g}, and either all norms of a gap are 0 or none is"
        return
    l1, l2, sup_sum, sup = (norms[name] for name in _NORMS)
    root = math.sqrt(number)
    slack = 1 + 8 * (number + 8) * 2.0**-53  # the norms are sums in float64
    least = (number + 1) * 2.0**-1070
    relations = [
        (("sup", "l2"), sup, l2, "sup is at most l2"),
        (("l2", "l1"), l2, l1, "l2 is at most l1"),
        (("sup", "l1"), sup, l1, "sup is at most l1"),
        (("sup", "sup_sum"), sup, sup_sum, "sup is at most sup_sum"),
        (("sup_sum", "l1"), sup_sum, l1, "sup_sum is at most l1"),
        (("l1", "l2"), l1, root * l2, f"l1 of {number} entries is at most {root:.4g} l2"),
        (("l2", "sup"), l2, root * sup, f"l2 of {number} entries is at most {root:.4g} sup"),
        (("l1", "sup"), l1, number * sup, f"l1 of {number} entries is at most {number} sup"),
        (
            ("sup_sum", "l2"),
            sup_sum,
            math.sqrt(tensors) * l2,
            f"sup_sum of {tensors} tensors is at most {math.sqrt(tensors):.4g} l2",
        ),
        (
            ("sup_sum", "sup"),
            sup_sum,
            tensors * sup,
            f"sup_sum of {tensors} tensors is at most {tensors} sup",
        ),
        (("l2", "l1", "sup"), l2, math.sqrt(l1) * math.sqrt(sup), "the square of l2 is at most l1 sup"),
    ]
    broken = [(names, said) for names, small, large, said in relations if small > large * slack + least]
    if not broken:
        return
    blamed = set.intersection(*(set(names) for names, _ in broken))
    blamed = blamed or set.union(*(set(names) for names, _ in broken))
    for name in (name for name in _NORMS if name in blamed):
        yield name, f"it is {norms[name]:.6g}, and {next(said for names, said in broken if name in names)}"


def _relative(gap: FloatGap, number: int) -> Iterator[tuple[str, str]]:
    # A quotient of two finite numbers may still be rounded to 0 where the gradient is that large.
    is_lost = gap.nonfinite or gap.l2 <= math.sqrt(number) * 2.0**-50
    if (gap.l2 == 0 and gap.relative != 0) or (gap.l2 != 0 == gap.relative and not is_lost):
        yield "relative", f"it is {gap.relative:.6g}, and l2 is {gap.l2:.6g}: one is 0 and the other is not"


def _of_all(gaps: Mapping[str, FloatGap]) -> Iterator[tuple[str, str]]:
    """All rules are compared with one gradient, whose norm follows from each of them."""
    norms = {
        rule: 0.0 if math.isinf(gap.relative) else gap.l2 / gap.relative
        for rule, gap in gaps.items()
        if not gap.nonfinite and gap.l2 > 0 and gap.relative > 2.0**-1000 and math.isfinite(gap.l2)
    }
    groups: list[list[str]] = []
    for rule, norm in norms.items():
        found = next(
            (group for group in groups if math.isclose(norms[group[0]], norm, rel_tol=2.0**-48)), None
        )
        if found is None:
            groups.append([rule])
        else:
            found.append(rule)
    most = max(map(len, groups), default=0)
    agreed = [group for group in groups if len(group) == most]
    for group in groups:
        if len(agreed) == 1 and group is agreed[0]:
            continue
        for rule in group:
            said = (
                f"with l2 it makes the norm of PyTorch's gradient {norms[rule]:.6g}, and other rules do not"
            )
            yield f"{rule}.relative", said
