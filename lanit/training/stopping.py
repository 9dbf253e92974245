"""Ends that a training does not choose: a request to stop, a launcher that is gone, another training in its folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from lanit.config import LanitError

START_AGAIN = 75  # exit status of a training that was told to stop and has saved: EX_TEMPFAIL, "try again later"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)  # SLURM's warning is any that was asked for


class StopRequest:
    """Notes that this process is asked to stop, by a signal or because torchrun, which started it, was killed."""

    def __init__(self) -> None:
        self._parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._signalled = False

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self._signalled or (self._parent is not None and os.getppid() != self._parent)

    def _note(self, number: int, _: object) -> None:
        if self._signalled and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait for the step to end
        self._signalled = True


@contextlib.contextmanager
def alone_in(folder: Path, patience: float = 60.0) -> Iterator[None]:
    """Hold a run's folder: workers that outlive a killed launcher end before others write where they write.

    Raises:
        LanitError: another training has not left the folder after `patience` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a", encoding="utf-8") as file:
        waited = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > waited:
                    raise LanitError(
                        f"another training is at work in {folder}; end it, or give another --output"
                    ) from None
            time.sleep(0.2)
        yield
