"""The command `raymc`, also as `python -m raymc`; catches signals before the slow imports."""

import sys

from raymc.runtime.interruption import catch_signals, end_now, is_interrupted


def main() -> None:
    """Run the command line of this process."""
    catch_signals()
    try:
        from raymc.cli.main import main as command

        command()
    finally:
        if is_interrupted():
            end_now()


if __name__ == "__main__":
    sys.exit(main())
