"""`python -m gateway` is the command `gateway`."""

import sys

try:
    from gateway import compiled

    compiled.use()  # before anything else of the package is imported

    from gateway.cli import main
except KeyboardInterrupt:  # Ctrl-C within the second that imports take
    sys.exit(130)

if __name__ == "__main__":
    main()
