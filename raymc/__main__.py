"""The command `raymc`, also as `python -m raymc`; catches signals before the slow imports."""

import gc
import signal
import sys


def main(arguments: list[str] | None = None) -> None:
    """Run the command line of this process, or other arguments in its place."""
    # Imports make hundreds of thousands of objects that stay. To look through them for garbage
    # after every 700, as Python does, takes a fifth of the time of imports.
    gc.set_threshold(10_000)
    # A signal that comes while the handlers' own module is imported waits for them.
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    )
    from raymc.runtime.interruption import ending_in_order

    given = sys.argv[1:] if arguments is None else arguments
    with ending_in_order(given[0] if given else ""):
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        from raymc.cli.main import main as command

        command(arguments)


if __name__ == "__main__":
    sys.exit(main())
