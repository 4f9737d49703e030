"""A child process for what is shared between processes."""

import os
from collections.abc import Callable


def fork(work: Callable[[], None]) -> int:
    """Do this in a child, which ends with 0 if it went well; -> its process id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid
