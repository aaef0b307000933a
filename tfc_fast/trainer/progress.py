"""The progress bar: one line, one number."""

from __future__ import annotations

import importlib
import sys
from types import TracebackType
from typing import Any

__all__ = ["ProgressBar"]


class ProgressBar:
    """Shows step, speed and loss on standard error; silent where that is no terminal.

    Args:
        total: Number of steps of the run.
        done: Steps that were done before.
        enabled: False: never show anything.

    Raises:
        ImportError: There is a terminal to show it on, but tqdm is not installed.

    Example:
        >>> with ProgressBar(total=10, enabled=False) as bar:
        ...     bar.advance(loss=2.3)
    """

    def __init__(self, total: int, *, done: int = 0, enabled: bool = True) -> None:
        self._bar: Any = None
        self._shown: float | None = None
        if enabled and sys.stderr.isatty():
            self._bar = _import_tqdm().tqdm(
                total=total, initial=done, unit="step", dynamic_ncols=True, file=sys.stderr
            )

    def advance(self, loss: float | None) -> None:
        """Count one step.

        Args:
            loss: The newest loss that is known.
        """
        if self._bar is None:
            return
        if loss is not None and loss != self._shown:
            self._shown = loss
            # Without refresh: the bar draws itself a few times per second.
            self._bar.set_postfix_str(f"loss={loss:.4g}", refresh=False)
        self._bar.update()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _import_tqdm() -> Any:
    try:
        return importlib.import_module("tqdm")
    except ImportError as error:
        raise ImportError(
            f"the progress bar needs tqdm, which cannot be imported ({error}); install it with: "
            "pip install 'tfc_fast[train]', or do without: progress=False, --no-progress"
        ) from error
