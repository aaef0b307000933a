"""A wish to stop, by Ctrl-C, SIGTERM or the run itself, so that a step is never cut in two."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopRequest"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Within the block, the first SIGINT or SIGTERM only sets a flag; a second one interrupts.

    The handlers from before are put back at the end. Outside the main thread, where Python admits
    no handlers, nothing changes and the flag stays off.

    Example:
        >>> with StopRequest() as stop:
        ...     signal.raise_signal(signal.SIGINT)
        ...     stop.name
        'SIGINT'
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __bool__(self) -> bool:
        """Whether to stop."""
        return self.name is not None

    def ask(self, name: str) -> None:
        """Stop for another reason than a signal, which goes before."""
        self.name = self.name or name

    @property
    def is_signal(self) -> bool:
        """Whether a signal asked to stop."""
        return self.name in [number.name for number in _SIGNALS]

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None: the handler was not set from Python and cannot be put back from there.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.is_signal:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
