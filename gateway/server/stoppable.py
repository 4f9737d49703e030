"""uvicorn's server without its own signals, for a process that a master tells what to do."""

import contextlib
from collections.abc import Iterator

import uvicorn


class Stoppable(uvicorn.Server):
    """Ends when `stop` is called. uvicorn's own handlers would raise the signal again at the end, which kills the
    process before it has tidied up."""

    def stop(self) -> None:
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
