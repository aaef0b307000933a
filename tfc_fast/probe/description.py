"""What a probe watches and what it does not, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.Softsign,
    nn.Sigmoid,
    nn.Tanh,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Hardswish,
)


@dataclass(frozen=True)
class SiteDescription:
    """One site.

    Attributes:
        name: As in the records.
        kind: Class of the module, or `"tap"`.
        reduction: What the rows are: `"flatten"`, `"pool"` or `"tokens"`.
        rows: Rows of the step that was recorded last; 0: none yet.
        units: Entries of a row; 0: not known yet.
        share: Its part of the entries of all sites, from 0 to 1: about that of the cost.
    """

    name: str
    kind: str
    reduction: str
    rows: int
    units: int
    share: float


@dataclass(frozen=True)
class Description:
    """What a probe watches and what it does not; `print` it.

    Attributes:
        watched: Sites with records, in their order.
        not_watched: Places that one might expect among them, and why they are not: pairs of a name
            and a reason.
        entries_per_step: Entries of all rows that are compared, features and gradients.
    """

    watched: tuple[SiteDescription, ...]
    not_watched: tuple[tuple[str, str], ...]
    entries_per_step: int

    def __str__(self) -> str:
        lines = _aligned(
            [("site", "kind", "rows are", "rows x units", "of all entries")]
            + [
                (
                    site.name,
                    site.kind,
                    site.reduction,
                    f"{site.rows} x {site.units}",
                    f"{100 * site.share:.1f} %",
                )
                for site in self.watched
            ]
        )
        lines.append(f"{self.entries_per_step:,} entries of features and gradients per step")
        if self.not_watched:
            lines += ["", "not watched:"]
            lines += ["  " + line for line in _aligned(self.not_watched)]
        lines += ["", "Functions inside a forward, such as F.relu, are seen by tap(x, name) only."]
        return "\n".join(lines)


def describe(
    sites: Sequence[tuple[str, str, str]],
    sizes: dict[str, tuple[int, int]],
    left_out: set[str],
    unwatchable: dict[str, str],
    others: Sequence[tuple[str, nn.Module]],
) -> Description:
    """Put a description together.

    Args:
        sites: Name, kind and reduction of each site.
        sizes: Rows and units of the sites that have been recorded.
        left_out: Places that are no longer recorded, to keep to the budget.
        unwatchable: Reasons by the name of a site.
        others: Modules of the model that were not chosen.
    """
    out_of_budget = {name for name, _, _ in sites if name.partition("#")[0] in left_out}
    recorded = [site for site in sites if site[0] in sizes.keys() - out_of_budget]
    entries = {name: 2 * sizes[name][0] * sizes[name][1] for name, _, _ in recorded}
    total = sum(entries.values())
    watched = tuple(
        SiteDescription(name, kind, reduction, *sizes[name], entries[name] / max(1, total))
        for name, kind, reduction in recorded
    )
    reasons = [
        (name, unwatchable.get(name, "no gradient has come back to it in a closed step"))
        for name, _, _ in sites
        if name not in sizes.keys() | out_of_budget
    ]
    reasons += [
        (name, "left out by now, to keep to the budget")
        for name, _, _ in sites
        if name in out_of_budget
    ]
    reasons += [
        (name, f"{type(module).__name__}, not chosen by sites")
        for name, module in others
        if isinstance(module, ACTIVATIONS)
    ]
    return Description(watched, tuple(reasons), total)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
