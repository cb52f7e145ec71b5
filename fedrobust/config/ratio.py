"""Radii and step sizes as people write them: "8/255"."""

from fractions import Fraction
from typing import Any


class Ratio(float):
    """A number that remembers how it was written: `Ratio("8/255") == 8 / 255`, `str` gives "8/255".

    Accepts a fraction "a/b", a decimal string or a number; a Ratio is returned as it is. Its text gives the same
    number again, so that a config can be written and read. Raises ValueError for anything else.
    """

    text: str

    def __new__(cls, value: Any) -> "Ratio":
        if isinstance(value, Ratio):
            return value
        text = str(value).strip()
        try:
            number = float(Fraction(text))
        except (ValueError, ZeroDivisionError) as error:
            raise ValueError(f"must be a number or a fraction such as 8/255, not {text!r}") from error
        self = super().__new__(cls, number)
        self.text = text
        return self

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]
        return (self.text,)

    def __str__(self) -> str:
        return self.text
