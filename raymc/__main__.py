"""`python -m raymc` is the command `raymc`."""

from raymc.cli import main

if __name__ == "__main__":
    main()
