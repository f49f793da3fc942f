"""Files of all kinds against a full decode; `media_cases.py` tries thousands by hand.

The seeds are a few that have each codec, format and kind of fault. Encoders of AV1 and HEVC may
crash, and are tried by hand alone.
"""

from pathlib import Path

import pytest
from media_cases import make_case, write_case, wrong_in

SEEDS = [
    1,
    20,
    45,
    51,
    65,
    76,
    79,
    87,
    95,
    102,
    125,
    135,
    153,
    157,
    171,
    178,
    234,
    245,
    276,
    342,
    400,
    441,
    691,
    717,
    925,
]


@pytest.mark.slow
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
