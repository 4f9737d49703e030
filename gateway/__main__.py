"""`python -m gateway` is the command `gateway`."""

from gateway import compiled

compiled.use()  # before anything else of the package is imported

from gateway.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
