from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from small_models import (
    TEXT,
    bert,
    clip,
    dinov2,
    shaken,
    siglip,
    write_config,
    write_model,
    write_tokenizer,
)

from raymc.errors import ConfigError, DataError, ResourceError
from raymc.features.encoders import text_encoder
from raymc.features.encoders.words import words_of

TEXTS = [
    "the cat sat",
    "",
    "two dogs ran home on a mat",
    "cat",
    " \n",
    "the cat sat",
    "Cat! the the the the the the the the the the the the the the",
]


def place_of(word: str) -> tuple[int, float]:
    """Where a word goes, told from the definition."""
    import hashlib

    digest = hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest()
    number = sum(byte << (8 * i) for i, byte in enumerate(digest))
    return (number // 2) % 512, 1.0 if number % 2 else -1.0


def test_words_are_signed_counts_of_length_one() -> None:
    tokens = text_encoder("words").encode(["The cat, the CAT and the dog's tail"])
    expected = np.zeros(512)
    for word, count in {"the": 3, "cat": 2, "and": 1, "dog's": 1, "tail": 1}.items():
        place, sign = place_of(word)
        expected[place] += sign * count
    np.testing.assert_allclose(tokens, [expected / np.linalg.norm(expected)], atol=1e-6)
    assert tokens.dtype == np.float32


def test_places_are_the_same_on_every_machine() -> None:
    token = text_encoder("words").encode(["counting to ten"])[0]
    assert token.nonzero()[0].tolist() == [74, 127, 160]
    assert np.sign(token[[74, 127, 160]]).tolist() == [1.0, 1.0, 1.0]


def test_texts_without_words_are_zero() -> None:
    tokens = text_encoder("words").encode(["", "  \n", "?!", "one"])
    assert tokens.shape == (4, 512)
    assert not tokens[:3].any()
    assert text_encoder("words").encode([]).shape == (0, 512)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop", ["don't", "stop"]),
        ("x² + ½ = 3.5", ["x2", "1", "2", "3", "5"]),
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("cafe\u0301 café", ["café", "café"]),
        ("数を数える", ["数を数える"]),
        ("'quoted' well-known", ["quoted", "well", "known"]),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_words_says_of_itself() -> None:
    encoder = text_encoder("words", rate_hz=0.2)
    assert (encoder.name, encoder.rate_hz, encoder.dim) == ("words", 0.2, 512)
    assert encoder.has_weights is False


def pieces_of(tower: Any, tokenizer: Any, text: str, **options: Any) -> Any:
    longest = getattr(tower.config, "max_position_embeddings", 512)
    return tokenizer(text, return_tensors="pt", truncation=True, max_length=longest, **options)


def pooled(tower: Any, tokenizer: Any, text: str) -> torch.Tensor:
    return tower(**pieces_of(tower, tokenizer, text)).pooler_output[0]


def padded(tower: Any, tokenizer: Any, text: str) -> torch.Tensor:
    return tower(**pieces_of(tower, tokenizer, text, padding="max_length")).pooler_output[0]


def mean(tower: Any, tokenizer: Any, text: str) -> torch.Tensor:
    return tower(**pieces_of(tower, tokenizer, text)).last_hidden_state[0].mean(0)


def clip_text() -> Any:
    config = transformers.CLIPTextConfig(**TEXT, bos_token_id=2, eos_token_id=3)
    return shaken(transformers.CLIPTextModel(config))


def bert_without_pooler() -> Any:
    return shaken(transformers.BertModel(transformers.BertConfig(**TEXT), add_pooling_layer=False))


def bert_for_masks() -> Any:
    return shaken(transformers.BertForMaskedLM(transformers.BertConfig(**TEXT)))


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=20, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0
    )
    return shaken(transformers.T5Model(config))


@pytest.mark.parametrize(
    ("make", "tower", "expected"),
    [
        (clip, lambda model: model.text_model, pooled),
        (clip_text, lambda model: model, pooled),
        (siglip, lambda model: model.text_model, padded),
        (bert, lambda model: model, mean),
        (bert_without_pooler, lambda model: model, mean),
        (bert_for_masks, lambda model: model.bert, mean),
        (t5, lambda model: model.encoder, mean),
    ],
    ids=["clip", "clip-text", "siglip", "bert", "poolerless", "masks", "t5"],
)
def test_tokens_are_what_the_library_computes(
    tmp_path: Path,
    make: Callable[[], Any],
    tower: Callable[[Any], Any],
    expected: Callable[[Any, Any, str], torch.Tensor],
) -> None:
    model = make()
    folder = write_model(tmp_path / "someone/small", model)
    tokenizer = write_tokenizer(folder)
    encoder = text_encoder("someone/small", rate_hz=0.5, weights=str(tmp_path))
    tokens = encoder.encode(TEXTS)
    assert tokens.dtype == np.float32
    assert tokens.shape == (len(TEXTS), encoder.dim)
    with torch.inference_mode():
        for token, text in zip(tokens, TEXTS):
            wanted = expected(tower(model), tokenizer, text) if text.strip() else torch.zeros(1)
            np.testing.assert_allclose(token, wanted.expand(encoder.dim), atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(encoder.encode(TEXTS[:1]), tokens[:1], atol=2e-5)
    assert np.abs(tokens[0] - tokens[2]).max() > 0.01


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Folder of a small BERT; the folder of weights is two above."""
    folder = write_model(tmp_path / "google/bert-small", bert())
    write_tokenizer(folder)
    return folder


def load(folder: Path, **options: Any) -> Any:
    weights = str(folder.parent.parent)
    return text_encoder(f"{folder.parent.name}/{folder.name}", weights=weights, **options)


def test_a_token_depends_on_its_text_alone(small: Path) -> None:
    encoder = load(small)
    many = [" ".join(np.random.default_rng(i).permutation(TEXTS[2].split())) for i in range(50)]
    tokens = encoder.encode([*many, *TEXTS])
    np.testing.assert_array_equal(encoder.encode([*many, *TEXTS]), tokens)
    for i, text in enumerate([*many, *TEXTS]):
        np.testing.assert_allclose(encoder.encode([text])[0], tokens[i], atol=1e-5)
    assert encoder.encode([]).shape == (0, 32)
    assert encoder.encode(["", " "]).tolist() == [[0.0] * 32] * 2


def test_what_it_says_of_itself(small: Path) -> None:
    (small / "README.md").write_text("---\nlicense:\n- mit\n- cc-by-4.0\n---\n")
    encoder = load(small, rate_hz=0.25)
    assert (encoder.name, encoder.rate_hz, encoder.dim) == ("google/bert-small", 0.25, 32)
    assert (encoder.license, encoder.has_weights) == ("mit, cc-by-4.0", True)


def test_a_tokenizer_without_padding_pads(small: Path) -> None:
    tokens = load(small).encode(TEXTS)
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(small / "tokenizer.json"), eos_token="[SEP]"
    ).save_pretrained(small)
    np.testing.assert_allclose(load(small).encode(TEXTS), tokens, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "tokenizer.json").write_text("{"), "not a model that transformers .* can"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "not a model that transformers .* can"),
        (
            lambda f: write_model(f, bert_of(vocab_size=8)),
            "the tokenizer has 14 pieces where the model knows 8",
        ),
        (
            lambda f: write_config(f, num_hidden_layers=3),
            "16 weights that config.json asks for are in no file, such as encoder.layer.2",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(b""),
            "damaged, or not a safetensors file",
        ),
    ],
)
def test_files_that_are_torn_or_do_not_fit(
    small: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(small)
    with pytest.raises(DataError, match=message) as raised:
        load(small)
    assert str(raised.value).startswith(str(small))
    assert "\n" not in str(raised.value)


def bert_of(**changes: Any) -> Any:
    return shaken(transformers.BertModel(transformers.BertConfig(**{**TEXT, **changes})))


def test_a_model_without_its_words_is_not_guessed(small: Path) -> None:
    (small / "tokenizer.json").unlink()
    with pytest.raises(
        ResourceError, match=r"no tokenizer.json; put the files of google/bert-small"
    ):
        load(small)


def test_a_clip_that_lacks_its_pooler_is_refused(tmp_path: Path) -> None:
    model = siglip()
    folder = write_model(tmp_path / "someone/small", model)
    write_tokenizer(folder)
    state = {
        key: x for key, x in model.state_dict().items() if not key.startswith("text_model.head")
    }
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(DataError, match=r"2 weights .* are in no file, such as head.bias"):
        load(folder)


def test_a_model_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "someone/small", dinov2())
    write_tokenizer(folder)
    with pytest.raises(ConfigError, match="someone/small doesn't turn a text into a vector"):
        load(folder)
