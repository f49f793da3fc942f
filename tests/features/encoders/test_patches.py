import numpy as np
import pytest

from raymc.errors import DataError
from raymc.features.encoders import visual_encoder

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)


def slow_token(frame: np.ndarray) -> list[float]:
    """The token of one frame, pixel by pixel in float64."""
    values: list[float] = []
    for top in range(0, 24, 6):
        for left in range(0, 24, 6):
            pixels = [frame[top + y, left + x] / 255 for y in range(6) for x in range(6)]
            grey = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in pixels]
            mean = sum(grey) / 36
            deviation = (sum((value - mean) ** 2 for value in grey) / 36) ** 0.5
            red, blue = (sum(pixel[i] for pixel in pixels) / 36 for i in (0, 2))
            values += [(value - mean) / (deviation + 0.02) for value in grey]
            values += [10 * deviation, 4 * mean - 2, 5 * (red - mean), 5 * (blue - mean)]
    return values


def test_tokens_equal_a_slow_reference() -> None:
    encoder = visual_encoder("patches", fps=2.0)
    tokens = encoder.encode(FRAMES)
    assert tokens.dtype == np.float32
    assert tokens.shape == (5, encoder.dim) == (5, 640)
    np.testing.assert_allclose(tokens, [slow_token(frame) for frame in FRAMES], atol=1e-4)


def test_a_token_depends_on_its_frame_alone() -> None:
    encoder = visual_encoder("patches")
    tokens = encoder.encode(FRAMES)
    for i in range(len(FRAMES)):
        np.testing.assert_array_equal(encoder.encode(FRAMES[i : i + 1])[0], tokens[i])


def test_a_drawing_is_the_same_in_any_light() -> None:
    drawing = np.zeros((24, 24, 3))
    drawing[::2] = 1
    lit = np.stack([base + gain * drawing for base, gain in ((40, 200), (10, 100))])
    tokens = visual_encoder("patches").encode(lit.astype(np.uint8)).reshape(2, 16, 40)
    np.testing.assert_allclose(tokens[0, :, :36], tokens[1, :, :36], atol=0.1)
    assert np.abs(tokens[0, :, 36:38] - tokens[1, :, 36:38]).min() > 0.5


def test_a_black_picture_and_no_picture_are_finite() -> None:
    encoder = visual_encoder("patches")
    assert np.isfinite(encoder.encode(np.zeros((1, 24, 24, 3), np.uint8))).all()
    assert encoder.encode(FRAMES[:0]).shape == (0, 640)


def test_what_it_says_of_itself() -> None:
    encoder = visual_encoder("patches", fps=2.0)
    assert (encoder.name, encoder.rate_hz, encoder.has_weights) == ("patches", 2.0, False)
    picture = encoder.picture
    assert (picture.height, picture.width, picture.short_side) == (24, 24, None)


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(DataError, match="frames of 24 × 20 pixels; patches expects 24 × 24"):
        visual_encoder("patches").encode(FRAMES[:, :, :20])
