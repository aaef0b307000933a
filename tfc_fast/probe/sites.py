"""Which modules of a model are watched."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch import nn

Predicate: TypeAlias = "Callable[[str, nn.Module | None], bool]"
Sites: TypeAlias = "str | type[nn.Module] | Predicate | Iterable[str]"
"""`"relu"`, a glob over module paths or a list of them, a module type, or a predicate."""


class SiteSelection:
    """The choice a user made, asked for modules (now) and for taps (as they turn up).

    Args:
        sites: See `Sites`.

    Raises:
        TypeError: `sites` is of another kind.
    """

    def __init__(self, sites: Sites) -> None:
        self._given = sites
        self._patterns: tuple[str, ...] = ()
        self._type: type[nn.Module] | None = None
        self._predicate: Predicate | None = None
        if isinstance(sites, nn.Module):
            raise TypeError(
                f"sites: wanted a module type, got a module; write {type(sites).__name__} instead "
                f"of {type(sites).__name__}()"
            )
        if isinstance(sites, str):
            if sites == "relu":
                self._type = nn.ReLU
            else:
                self._patterns = (sites,)
        elif isinstance(sites, type) and issubclass(sites, nn.Module):
            self._type = sites
        elif not isinstance(sites, type) and isinstance(sites, Iterable):
            self._patterns = tuple(sites)
            wrong = [pattern for pattern in self._patterns if not isinstance(pattern, str)]
            if wrong:
                raise TypeError(f"sites: a list must hold module paths (str), got {wrong[0]!r}")
        elif callable(sites) and not isinstance(sites, type):
            self._predicate = sites
        else:
            raise TypeError(
                "sites: wanted 'relu', a glob over module paths or a list of them, a module type, "
                f"or a function of (name, module), got {sites!r}"
            )

    def modules(self, model: nn.Module) -> list[tuple[str, nn.Module]]:
        """The chosen modules with their paths, in the order of `model.named_modules()`.

        A module that is reachable by several paths appears once, by its first path.

        Raises:
            ValueError: A pattern, type or predicate matches no module, or a module cannot be
                watched.
        """
        named = list(model.named_modules())
        if self._predicate is not None:
            chosen = [(name, module) for name, module in named if self._predicate(name, module)]
            if not chosen:
                raise ValueError(f"sites: the function chose none of the {len(named)} modules")
        elif self._type is not None:
            chosen = [(name, module) for name, module in named if isinstance(module, self._type)]
            if not chosen:
                raise ValueError(
                    f"sites: the model has no module of type {self._type.__name__}; name modules "
                    "by glob, or use tap(x, name) in its forward and Probe(sites=[])"
                )
        else:
            for pattern in self._patterns:
                self._check_pattern(pattern, [name for name, _ in named])
            chosen = [(name, module) for name, module in named if self._matches(name)]
        for name, module in chosen:
            if isinstance(module, torch.jit.ScriptModule):
                raise ValueError(f"sites: '{name}' is a scripted module, which cannot be watched")
        return chosen

    def takes_tap(self, name: str) -> bool:
        """Whether a tap of that name is watched: yes, unless a predicate says no."""
        return self._predicate is None or self._predicate(name, None)

    def _matches(self, name: str) -> bool:
        # The model itself has no name.
        return name != "" and any(fnmatch.fnmatchcase(name, glob) for glob in self._patterns)

    def _check_pattern(self, pattern: str, names: list[str]) -> None:
        if any(fnmatch.fnmatchcase(name, pattern) for name in names if name):
            return
        if pattern == "relu":
            raise ValueError(
                "sites: 'relu' in a list is a module path, which the model has not; given alone, "
                "sites='relu', it means every nn.ReLU"
            )
        close = difflib.get_close_matches(pattern, names[1:], n=3, cutoff=0.4) or names[1:6]
        if not close:
            raise ValueError(
                f"sites: '{pattern}' matches no module: the model has none inside it; give its "
                "type, or use tap(x, name)"
            )
        raise ValueError(
            f"sites: '{pattern}' matches no module of the model; did you mean one of {close}? "
            "model.named_modules() lists all"
        )
