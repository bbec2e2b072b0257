"""`repro` and `python -m repro`."""

import sys


def main() -> None:
    """Run the command line; errors a user can act on are one line, exit status 2."""
    from repro.cli import run_cli

    sys.exit(run_cli(sys.argv[1:]))


if __name__ == "__main__":
    main()
