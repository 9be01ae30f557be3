"""A tree of JSON values that was read: each value knows the way to it, so that a wrong one can be named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tiebreak.design.axes import UserError, member


class CertificateError(UserError):
    """A certificate that cannot be read, or that is not what it says; the message names the field."""


@dataclass(frozen=True)
class Field:
    """A value with the way to it; what is asked of it and is not so raises `CertificateError`.

    Attributes:
        value: as JSON has it.
        path: names and numbers of the way, with dots between them.
    """

    value: Any
    path: str

    def wrong(self, wanted: str) -> CertificateError:
        """What to raise where the value is not what is wanted."""
        shown = repr(self.value) if len(repr(self.value)) < 60 else type(self.value).__name__
        return CertificateError(f"the field {self.path or 'at the top'} must be {wanted}, got {shown}.")

    def __getitem__(self, key: str) -> Field:
        if key not in self.mapping():
            raise CertificateError(f"the field {self._to(key)} is missing.")
        return Field(self.value[key], self._to(key))

    def _to(self, key: object) -> str:
        return f"{self.path}.{key}" if self.path else str(key)

    def mapping(self) -> dict[str, Any]:
        """The value, which must be an object."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        return self.value

    def only(self, *keys: str) -> None:
        """Refuse a key that nothing reads."""
        for key in self.mapping():
            if key not in keys:
                raise CertificateError(f"the field {self._to(key)} is not one of a certificate.")

    def named(self) -> dict[str, Field]:
        """The members of an object."""
        return {key: self[key] for key in self.mapping()}

    def items(self) -> list[Field]:
        """The members of a list."""
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        return [Field(item, self._to(index)) for index, item in enumerate(self.value)]

    def text(self) -> str:
        """The value, which must be text."""
        if not isinstance(self.value, str):
            raise self.wrong("text")
        return self.value

    def optional(self) -> str | None:
        """Text or nothing."""
        return None if self.value is None else self.text()

    def truth(self) -> bool:
        """The value, which must be true or false."""
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def whole(self, *, least: int = 0) -> int:
        """The value, which must be a whole number."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < least:
            raise self.wrong(f"a whole number, {least} or more")
        return self.value

    def number(self) -> float:
        """The value, which must be a number; infinities and NaN are spelled out."""
        spelled = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
        if isinstance(self.value, str) and self.value in spelled:
            return spelled[self.value]
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.wrong("a number")
        try:
            return float(self.value)
        except OverflowError:
            raise self.wrong("a number that a float holds") from None

    def shape(self) -> tuple[int, ...]:
        """Whole numbers."""
        return tuple(item.whole() for item in self.items())

    def pair(self) -> tuple[int, int]:
        """Two whole numbers."""
        items = self.shape()
        if len(items) != 2:
            raise self.wrong("two whole numbers")
        return items[0], items[1]

    def member(self, kind: Any) -> Any:
        """The member of an enumeration that the value spells."""
        return member(kind, self.value, key=f"the field {self.path}")

    def among(self, numbers: Mapping[str, Tensor]) -> Tensor:
        """The tensor that the value names."""
        name = self.text()
        if name not in numbers:
            raise CertificateError(f"the field {self.path} names the tensor {name}, and there is none.")
        return numbers[name]
