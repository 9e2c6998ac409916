"""SIGTERM, SIGHUP and Ctrl-C as requests to stop, honoured at the next step from which the run can be resumed."""

import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# A terminal's Ctrl-C reaches every process directly and, through torchrun, a second time.
_SAME_REQUEST_SECONDS = 3.0
# SIGHUP: the terminal was closed; Windows does not have it.
_SIGNALS = [one for one in signal.Signals if one.name in ("SIGTERM", "SIGINT", "SIGHUP")]


class Stopped(KeyboardInterrupt):
    """Work ended by a signal. `exit_code` is the shell's: 130 after Ctrl-C, 143 after SIGTERM, 129 after
    SIGHUP."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class StopRequest:
    """A request to stop this process.

    While it listens, a signal raises Stopped at once, unless the work is in `deferred()`: then it only sets `requested`
    and logs one line, and the work raises `stopped()` once it has saved its state. A second signal always stops at
    once. The end of torchrun is also a request.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._announces = True
        self._asked_at = 0.0
        self._deferred = False
        self._parent: int | None = None

    @property
    def requested(self) -> bool:
        if self._signal is None and self._parent not in (None, os.getppid()):
            self._signal = signal.SIGTERM
        return self._signal is not None

    def stopped(self) -> Stopped:
        """Return the exception to raise, also if another process of the run got the signal."""
        return Stopped(self._signal or signal.SIGTERM)

    @contextmanager
    def listening(self, *, follow_parent: bool = False, announces: bool = True) -> Iterator[None]:
        """Handle the signals; with `follow_parent`, the end of the parent process is also a request. Of several
        processes, one `announces` the stop. SIGHUP stays ignored if it already was, as under nohup. Outside the main
        thread, where Python allows no signal handlers, signals keep their default effect.
        """
        self._parent = os.getppid() if follow_parent else None
        self._announces = announces
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [one for one in _SIGNALS if one.name != "SIGHUP" or signal.getsignal(one) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Return a context in which a signal only sets `requested`, which the work inside must check."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        again = self._signal is not None and now - self._asked_at > _SAME_REQUEST_SECONDS
        if self._signal is None:
            self._signal, self._asked_at = number, now
        _leave_closed_terminal()
        if again or not self._deferred:
            raise Stopped(number)
        if self._asked_at == now and self._announces:
            _write_line(
                f"{signal.Signals(number).name}: the run is saved and stops after this step; a second signal, "
                f"{_SAME_REQUEST_SECONDS:.0f} s from now or later, stops it at once"
            )


def _write_line(line: str) -> None:
    """Write directly to standard error's file descriptor: the signal may have interrupted a write to the stream."""
    start = "\n" if os.isatty(2) else ""  # the cursor is in the progress bar or after the terminal's ^C
    with suppress(OSError):
        os.write(2, f"{start}{line}\n".encode())


def _leave_closed_terminal() -> None:
    """Discard further output to a closed terminal, where writing raises an error."""
    for number in (1, 2):
        with suppress(OSError):
            # The device of a closed terminal still exists, but is no longer a terminal.
            if stat.S_ISCHR(os.fstat(number).st_mode) and not os.isatty(number):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, number)
                os.close(null)
