"""Feasibility of linear systems in exact rationals: small, slow, without tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

Vector = tuple[Fraction, ...]
"""A point or a linear form."""


def nonnegative_solution(columns: Sequence[Vector], target: Vector) -> Vector | None:
    """Numbers x >= 0 with sum of x[j] columns[j] = target, or None if there are none.

    Phase one of the simplex method with Bland's rule, which cannot cycle.

    Args:
        columns: of one length.
        target: of the same length.
    """
    num_rows, num_columns = len(target), len(columns)
    signs = [-1 if value < 0 else 1 for value in target]
    rows = [
        [sign * column[i] for column in columns]
        + [Fraction(int(i == k)) for k in range(num_rows)]
        + [sign * target[i]]
        for i, sign in enumerate(signs)
    ]
    basis = list(range(num_columns, num_columns + num_rows))
    # What a column saves of the sum of the artificial variables, which is to become 0.
    savings = [sum((row[j] for row in rows), Fraction(0)) for j in range(num_columns)]
    while True:
        entering = next((j for j in range(num_columns) if savings[j] > 0), None)
        if entering is None:
            break
        ratios = [(row[-1] / row[entering], basis[i], i) for i, row in enumerate(rows) if row[entering] > 0]
        _, _, leaving = min(ratios)
        pivot = rows[leaving][entering]
        rows[leaving] = [value / pivot for value in rows[leaving]]
        for i, row in enumerate(rows):
            if i != leaving and row[entering]:
                factor = row[entering]
                rows[i] = [value - factor * new for value, new in zip(row, rows[leaving], strict=True)]
        factor = savings[entering]
        savings = [
            value - factor * new for value, new in zip(savings, rows[leaving][:num_columns], strict=True)
        ]
        basis[leaving] = entering
    solution = [Fraction(0)] * num_columns
    for row, variable in zip(rows, basis, strict=True):
        if variable < num_columns:
            solution[variable] = row[-1]
        elif row[-1]:
            return None
    return tuple(solution)


def has_open_cone(forms: Sequence[Vector]) -> bool:
    """Whether some direction makes every linear form positive.

    By Gordan's theorem it does unless a convex combination of the forms is 0.

    Args:
        forms: of one length.

    Example:
        >>> one = Fraction(1)
        >>> has_open_cone([(one, one), (-one, one)]), has_open_cone([(one,), (-one,)])
        (True, False)
    """
    if not forms:
        return True
    guess = [sum(column) for column in zip(*forms, strict=True)]
    if all(sum(g * value for g, value in zip(guess, form, strict=True)) > 0 for form in forms):
        return True  # most cones are wide, and their middle says so
    columns = [(*form, Fraction(1)) for form in forms]
    return nonnegative_solution(columns, (*(Fraction(0),) * len(forms[0]), Fraction(1))) is None


def in_hull(point: Vector, vertices: Sequence[Vector]) -> bool:
    """Whether a point is a convex combination of some points.

    Args:
        point: what is asked about.
        vertices: at least one, of the same length.
    """
    if point in vertices:
        return True
    columns = [(*vertex, Fraction(1)) for vertex in vertices]
    return nonnegative_solution(columns, (*point, Fraction(1))) is not None
