"""`python -m gateway` is the command `gateway`."""

import os
import sys

for _ in range(3):  # a daemon's parent may have closed them: what is opened next would be taken for standard output
    if (_descriptor := os.open(os.devnull, os.O_RDWR)) > 2:
        os.close(_descriptor)
        break
sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115

try:
    from gateway import compiled

    compiled.use()  # before anything else of the package is imported

    from gateway.cli import main
except KeyboardInterrupt:  # Ctrl-C within the second that imports take
    sys.exit(130)

if __name__ == "__main__":
    main()
