"""Stopping a training between two steps: Ctrl-C, "interrupt kernel" and a polite kill let the current step finish."""

import signal
import threading
from types import FrameType


class TrainingInterrupted(KeyboardInterrupt):
    """Raised when a training was stopped by hand; its text says what was saved and how to go on.

    It is a KeyboardInterrupt, so a notebook runs no further cell on a half-trained model and a script ends, but a
    notebook shows the one sentence instead of a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class StopRequest:
    """Inside `with StopRequest() as stop`, SIGINT and SIGTERM only set `stop.requested`; a second SIGINT breaks in.

    A state saved in the middle of a step would be no state of the training at all: half of the weights updated, the
    statistics of batch normalisation one step ahead. Python delivers signals to the main thread only; elsewhere
    nothing is changed.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __enter__(self) -> "StopRequest":
        self.requested = False
        self.previous: dict = {}
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self._handle) for number in self.signals}
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self.requested and kind is None:  # it came too late to stop anything here, but is not to be lost
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
