"""Divides what `uv pip compile` has locked: `python -m cluster.lock FILE`.

PyTorch and what only its CUDA build needs go to `requirements-cuda.txt`, all else to
`requirements.txt`: the image for CPUs takes PyTorch from its own index, which is not hashed here.
"""

import re
import sys
from argparse import ArgumentParser
from pathlib import Path

_CUDA = re.compile(r"(torch|torchaudio|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
_FOLDER = Path(__file__).parent
_HEAD = "# Made by uv; requirements.in says how. Every file is pinned by its SHA-256.\n"


def divide(locked: str) -> tuple[str, str]:
    """Return the packages of all images, and those of PyTorch with CUDA, with their hashes."""
    packages = re.findall(r"^\S+==(?:.*\\\n)+.*\n", locked, re.MULTILINE)
    cuda = [each for each in packages if _CUDA.match(each)]
    rest = [each for each in packages if each not in cuda]
    return _HEAD + "".join(rest), _HEAD + "".join(cuda)


def make_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = ArgumentParser(
        prog="python -m cluster.lock", description="Divide what `uv pip compile` has locked."
    )
    parser.add_argument("file", type=Path, help="what uv has written")
    return parser


def main() -> int:
    """Write both files beside this one."""
    of_all, of_cuda = divide(make_parser().parse_args().file.read_text())
    (_FOLDER / "requirements.txt").write_text(of_all)
    (_FOLDER / "requirements-cuda.txt").write_text(of_cuda)
    return 0


if __name__ == "__main__":
    sys.exit(main())
