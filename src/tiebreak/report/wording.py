"""Numbers and names as words of a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def percent(share: float) -> str:
    """A share as percent with one decimal, with no zero that is not one.

    Example:
        >>> percent(0.0004), percent(0.0), percent(0.5)
        ('below 0.1 %', '0 %', '50.0 %')
    """
    if 0 < share < 5e-4:
        return "below 0.1 %"
    if 1 - 5e-4 < share < 1:
        return "above 99.9 %"
    return f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign.

    Example:
        >>> points(-0.0125)
        '-1.25'
    """
    return f"{100 * difference:+.2f}"


def count(number: int, noun: str) -> str:
    """A number with its noun.

    Example:
        >>> count(1, "run"), count(3, "run")
        ('1 run', '3 runs')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them.

    Example:
        >>> listed(["fp16", "bf16", "fp32"])
        'fp16, bf16 and fp32'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def data_words(table: pd.DataFrame) -> pd.Series:
    """The data set; of an image folder, the folder."""
    if "folder" not in table:
        return table["data"].astype(str)
    folder = table["folder"].fillna("").astype(str)
    return folder.where(folder.str.len() > 0, table["data"].astype(str))


def images_words(source: str) -> str:
    """A data set by its name; of a folder of images that are not the official bytes, that they are not.

    Example:
        >>> images_words("mnist"), images_words("cifar10-jpeg")
        ('mnist', 'cifar10-jpeg (JPEG re-compressions)')
    """
    return f"{source} (JPEG re-compressions)" if "jpeg" in source else source


def networks_words(rows: pd.DataFrame) -> str:
    """The networks that rows are of and the images they saw, once each."""
    both = (rows["arch"] + " on " + data_words(rows).map(images_words)).unique()
    return ", ".join(sorted(both))


def of_context(title: str) -> str:
    """The context of a panel in brackets; nothing if there is only one."""
    return f" ({title})" if title else ""


def rule_tick(name: str) -> str:
    """Short words for a rule on an axis: beta as a number, powers of ten from 1,000 on as such."""
    text = {"native": "0", "minimal": "1"}.get(name, name.removeprefix("beta"))
    if text.startswith("1000") and set(text[1:]) == {"0"}:
        return f"$10^{{{len(text) - 1}}}$"
    return text.replace("_", "\n")


def beta_words(name: str) -> str:
    """A rule at ties as a sentence names it.

    Example:
        >>> beta_words("beta10000"), beta_words("minimal"), beta_words("all_ones")
        ('beta = 10^4', 'beta = 1', 'rule all_ones')
    """
    if not name.startswith(("beta", "native", "minimal")):
        return f"rule {name}"
    return f"beta = {rule_tick(name).translate(str.maketrans('', '', '${}'))}"
