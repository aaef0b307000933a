"""What the rows of a watched feature are."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Literal, TypeAlias

from tfc_fast import _extension

Reduction: TypeAlias = Literal["flatten", "pool", "tokens"]
Reductions: TypeAlias = "Reduction | Mapping[str, Reduction]"
"""One for all sites, or one for each glob over their names."""

REDUCTIONS: tuple[str, ...] = tuple(_extension._C.REDUCTIONS)
"""Their names, in the order of the numbers by which the compiled part knows them."""

_NUMBERS: dict[str, int] = {name: number for number, name in enumerate(REDUCTIONS)}


def reduction_number(name: object) -> int:
    """The number of a reduction.

    Raises:
        TypeError: `name` is not a str.
        ValueError: There is no reduction of that name.
    """
    if not isinstance(name, str):
        raise TypeError(f"reduction: wanted {_choice()}, got {type(name).__name__}")
    if name not in _NUMBERS:
        raise ValueError(f"reduction: wanted {_choice()}, got {name!r}")
    return _NUMBERS[name]


class SiteReductions:
    """The choice a user made, asked for each site as it turns up.

    Args:
        given: See `Reductions`. Of globs the first that matches counts; a site that none matches
            is flattened.

    Raises:
        TypeError: `given` is of another kind.
        ValueError: A reduction has another name.
    """

    def __init__(self, given: Reductions) -> None:
        if not isinstance(given, (str, Mapping)):
            raise TypeError(
                f"reduction: wanted {_choice()}, or a mapping from globs over site names to one of "
                f"these, got {type(given).__name__}"
            )
        by_glob = {"*": given} if isinstance(given, str) else given
        wrong = [glob for glob in by_glob if not isinstance(glob, str)]
        if wrong:
            raise TypeError(f"reduction: wanted globs over site names (str), got {wrong[0]!r}")
        self._by_glob = [(glob, reduction_number(name)) for glob, name in by_glob.items()]
        self._unused = [] if isinstance(given, str) else list(by_glob)

    def number(self, site: str) -> int:
        """The number of the reduction of a site."""
        for glob, number in self._by_glob:
            if fnmatch.fnmatchcase(site, glob):
                if glob in self._unused:
                    self._unused.remove(glob)
                return number
        return _NUMBERS["flatten"]

    def take_unused(self) -> list[str]:
        """Globs by which no site was decided so far; each is told once."""
        unused, self._unused = self._unused, []
        return unused


def _choice() -> str:
    return " or ".join(repr(name) for name in _NUMBERS)
