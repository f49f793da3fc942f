"""Files of all kinds against a full decode; `media_cases.py` tries thousands by hand."""

from pathlib import Path

import pytest
from media_cases import make_case, write_case, wrong_in

# Encoders of AV1 and HEVC may crash, and are tried by hand.
SEEDS = [
    seed for seed in range(60) if not make_case(seed).video.codec.startswith(("libs", "libx265"))
]


@pytest.mark.parametrize("seeds", [SEEDS[k::6] for k in range(6)], ids=str)
def test_files_of_all_kinds(tmp_path: Path, seeds: list[int]) -> None:
    tried = 0
    for seed in seeds:
        case = make_case(seed)
        path = write_case(case, tmp_path)
        if path is not None:
            tried += 1
            assert wrong_in(case, path) == [], case
    assert tried > len(seeds) / 2
