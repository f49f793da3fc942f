"""`python -m raymc` is the command `raymc`."""

from raymc.cli.main import main

if __name__ == "__main__":
    main()
