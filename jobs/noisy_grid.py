"""Mix noise into GRID's sound: features for `jobs/configs/accuracy/grid.yaml`.

    python jobs/noisy_grid.py GRID_FOLDER OUT.npz --snr 0 [--noise babble|white]

GRID_FOLDER holds `grid_s1_av.npz` and `audio16k/NAME.flac`.
"""

from argparse import ArgumentParser
from pathlib import Path

from jobs.bench.noisy_speech import make_noisy

if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("grid", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--snr", type=float, required=True, help="dB; inf is clean")
    parser.add_argument("--noise", choices=["babble", "white"], default="babble")
    asked = parser.parse_args()
    make_noisy(
        asked.grid / "grid_s1_av.npz",
        asked.grid / "audio16k",
        asked.out,
        snr_db=asked.snr,
        noise=asked.noise,
    )
