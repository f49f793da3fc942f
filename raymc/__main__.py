"""The command `raymc`, also as `python -m raymc`; catches signals before the slow imports."""

import sys

from raymc.runtime.interruption import ending_in_order


def main() -> None:
    """Run the command line of this process."""
    with ending_in_order():
        from raymc.cli.main import main as command

        command()


if __name__ == "__main__":
    sys.exit(main())
