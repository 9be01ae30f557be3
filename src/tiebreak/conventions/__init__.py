"""What the torch at hand does at ties and kinks, measured: operation by operation, never looked up.

Example:
    >>> from tiebreak.conventions import measure_conventions
    >>> rules = measure_conventions(dtypes=("float32",), operations=("amax",))
    >>> sorted({convention.gradient for convention in rules if convention.at == "tie"})
    ['even split']
"""

from tiebreak.conventions.operations import KINKS, SELECTIONS
from tiebreak.conventions.probes import Convention, compiler_status, measure_conventions
from tiebreak.conventions.rules import Place, Rule
from tiebreak.conventions.table import Surroundings, surroundings, to_json, to_markdown

__all__ = [
    "KINKS",
    "SELECTIONS",
    "Convention",
    "Place",
    "Rule",
    "Surroundings",
    "compiler_status",
    "measure_conventions",
    "surroundings",
    "to_json",
    "to_markdown",
]
