"""Files and rows of the same digit are decoded and normalised to the same ink."""

import normalise as normalising
import pytest
import torch
from decode import decode_instance, decode_rows
from PIL import Image

from task import BadInstance
from tests.images import draw_seven, image_base64


def normalise(image: Image.Image) -> torch.Tensor:
    """Return the ink from 0 to 1, the input of the network."""
    return normalising.normalise(image) / 255


PLAIN = normalise(draw_seven())


def similarity(image: Image.Image) -> float:
    """Return the cosine between an image's ink and that of the plain seven."""
    ink = normalise(image)
    return float(torch.cosine_similarity(ink.flatten(), PLAIN.flatten(), dim=0))


SPOTTED = draw_seven()
SPOTTED.paste(0, (2, 2, 5, 5))
SHADE = Image.linear_gradient("L").resize((100, 100)).point(lambda level: 255 - level // 2)
SEVENS = {
    "grey": image_base64(draw_seven()),
    "white on black": image_base64(draw_seven(paper=0, ink=255)),
    "faint": image_base64(draw_seven(paper=200, ink=170)),
    "large": image_base64(draw_seven(size=1200)),
    "a large JPEG": image_base64(draw_seven(size=1200), "JPEG"),
    "a speck far from it": image_base64(SPOTTED),
    "shade over the paper": image_base64(
        Image.composite(SHADE, Image.new("L", (100, 100), 30), draw_seven())
    ),
}


@pytest.mark.parametrize("text", SEVENS.values(), ids=SEVENS.keys())
def test_images_of_a_seven_are_normalised_to_the_same_ink(text: str) -> None:
    assert similarity(decode_instance(text)) > 0.9


def test_error_lists_rows_among_the_accepted_shapes() -> None:
    with pytest.raises(BadInstance, match=r'\{"b64": .*, or 28 rows of 28 numbers; got null'):
        decode_instance(None)


def test_image_without_ink_is_blank_and_not_an_error() -> None:
    assert not normalise(Image.new("L", (60, 60), 200)).any()
    assert not normalise(decode_rows([[0] * 28] * 28)).any()


@pytest.mark.parametrize(
    "value",
    [10**400, 1e308, float("inf"), float("nan")],
    ids=["an integer of 400 digits", "1e308", "inf", "nan"],
)
def test_numbers_out_of_range_are_rejected(value: float) -> None:
    rows = [[value, -value, *[0.0] * 26], *[[0.0] * 28] * 27]
    with pytest.raises(BadInstance):
        decode_rows(rows)


@pytest.mark.parametrize("scale", [1e-320, 1 / 255, 1, 1000, -1])
def test_rows_of_any_range_give_the_same_ink(scale: float) -> None:
    drawn = draw_seven(28, paper=0, ink=255)
    pixels = drawn.tobytes()
    rows = [[value * scale for value in pixels[28 * y : 28 * y + 28]] for y in range(28)]
    assert torch.allclose(normalise(decode_rows(rows)), normalise(drawn), atol=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 2), (47, 49)])
def test_image_of_any_shape_is_normalised(shape: tuple[int, int]) -> None:
    noise = normalise(Image.effect_noise(shape, 80))
    assert noise.shape == (28, 28)
    assert noise.isfinite().all()
