"""How the page shows predictions of every kind, and how it writes requests that hold them."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from tests.http import wait_for
from tests.images import image_base64
from tests.page.browser import Page
from tests.page.test_page import grey_file

pytestmark = pytest.mark.xdist_group("page")  # one browser


def test_numbers_are_sent_as_they_are_written(echo: Page) -> None:
    assert '"temperature": 1.0' in echo.body
    echo.send()
    assert '"temperature": 1.0' in echo.copy("curl")


@pytest.mark.parametrize(("maximum", "expected"), [(255, 190), (1, 0.745)])
def test_a_picture_as_rows_of_numbers_keeps_their_size_and_range(
    echo: Page, tmp_path: Path, maximum: float, expected: float
) -> None:
    rows = [[maximum, *[0.0] * 9] for _ in range(12)]
    script = (
        "model.requests[0].body = arguments[0]; setBody(arguments[0]); find('files').hidden = false"
    )
    echo.driver.execute_script(script, json.dumps({"instances": [{"pixels": rows}]}))
    echo.find("file").send_keys(grey_file(tmp_path))
    pixels = [[expected] * 10] * 12
    wait_for(lambda: echo.sent_body["instances"] == [{"pixels": pixels}], 10, "the rows")
    assert echo.find("preview").is_displayed()


PHOTO = image_base64(Image.new("RGB", (200, 100), "green"))
BOXES = [
    {"box": [20, 10, 120, 60], "label": "face", "score": 0.912345},
    {"box": [150, 50, 200, 100], "label": "hand", "score": 0.4},
]


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ({"cat": 0.25, "dog": 0.75}, "dog\n0.75\ncat\n0.25"),
        ([{"label": "a", "score": 0.1}, {"label": "b", "score": 0.9}], "b\n0.9\na\n0.1"),
        ([0.1, 0.7, 0.2], "dog\n0.7\nbird\n0.2\ncat\n0.1"),
        ({str(index): index for index in range(30)}, "and 10 more"),
        ("two\nlines", "two\nlines"),
        ({"text": "a text", "tokens": ["a", " text"]}, "text\na text\ntokens\na  text"),
        ([0.6, 0.8] + [0.0] * 382, "384 numbers, norm 1: 0.6, 0.8, 0, 0, 0, 0, …"),
        (BOXES, "face 0.9123 at 20, 10, 120, 60\nhand 0.4 at 150, 50, 200, 100"),
        ({"faces": BOXES[:1]}, "faces\nface 0.9123 at 20, 10, 120, 60"),
        ([], "[]"),
        (None, "null"),
        (3.14159265, "3.142"),
        (
            [{"word": "Rome", "start": 3}, {"word": "Po", "end": 0.25}],
            "word start end\nRome 3\nPo 0.25",
        ),
        (
            [{"label": "LOC", "score": 0.5, "text": "Po"}] * 2,
            "label score text\nLOC 0.5 Po\nLOC 0.5 Po",
        ),
        ({"deep": [{"a": [1, 2]}]}, '"a": [1, 2]'),
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
    ],
)
def test_every_kind_of_prediction_is_readable(echo: Page, prediction: Any, expected: str) -> None:
    echo.body = {"instances": [{"prediction": prediction}]}
    assert expected in echo.send()


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (image_base64(Image.effect_noise((40, 40), 50), "WEBP"), "WEBP"),
        (image_base64(Image.new("RGB", (9, 9)), "JPEG"), "JPEG"),
        (base64.b64encode(b"RIFF1234WAVEfmt " + bytes(80)).decode(), "base64"),
    ],
    ids=["WebP", "JPEG", "WAV"],
)
def test_only_pictures_are_shown_as_pictures(echo: Page, content: str, shown: str) -> None:
    body = json.dumps({"instances": [{"b64": content, "prediction": {"b64": content}}]})
    echo.driver.execute_script("setBody(arguments[0])", body)
    assert f": {shown}, " in echo.body
    echo.send()
    assert echo.find("preview").get_property("hidden") == (shown == "base64")
    pictures = echo.driver.find_elements(By.CSS_SELECTOR, "#answer img")
    assert len(pictures) == (shown != "base64")


@pytest.mark.parametrize("scale", [1, 200])
def test_boxes_are_drawn_over_the_picture(echo: Page, scale: float) -> None:
    boxes = BOXES if scale == 1 else [{"box": [0.1, 0.1, 0.6, 0.6]}, {"box": [0.75, 0.5, 1, 1]}]
    echo.body = {"instances": [{"b64": PHOTO, "prediction": boxes}]}
    echo.send()
    drawn = echo.driver.find_elements(By.CSS_SELECTOR, ".boxes span")
    wait_for(lambda: len(drawn) == 2, 5, "the boxes")
    picture = echo.driver.find_element(By.CSS_SELECTOR, ".boxes img").rect
    first = drawn[0].rect
    parts = [(first["x"] - picture["x"]) / picture["width"], first["width"] / picture["width"]]
    assert parts == pytest.approx([0.1, 0.5], abs=0.01)


def test_values_of_json_are_written_as_python(echo: Page) -> None:
    body = {"instances": [{"prediction": [True, False, None, 'null "true"']}]}
    echo.body = body
    found: dict[str, Any] = {}
    statement = next(
        line for line in echo.copy("Python").splitlines() if line.startswith("body = ")
    )
    exec(statement, found)  # noqa: S102  the program under test
    assert found["body"] == body


def test_the_button_explain_shows_an_explanation_of_the_request_in_the_editor(toy: Page) -> None:
    body = toy.body
    toy.find("explain").click()
    wait_for(lambda: "gradients" in toy.text("answer"), 10, "the explanation")
    assert "blue: above 0, red: below" in toy.text("answer")
    assert toy.driver.find_elements(By.CSS_SELECTOR, ".heat-map canvas")
    assert toy.body == body
    assert "gradients" not in toy.send()
    Select(toy.find("example")).select_by_index(len(Select(toy.find("example")).options) - 1)
    assert '"explain": true' in toy.body
    assert "gradients" in toy.send()


def test_the_button_explain_is_there_only_if_the_model_explains(echo: Page) -> None:
    assert not echo.find("explain").is_displayed()


def test_rows_of_numbers_are_blue_above_zero_and_red_below(echo: Page) -> None:
    echo.body = {"instances": [{"prediction": [[0] * 8] * 7 + [[-4, 2, *[0] * 6]]}]}
    assert echo.send() == "from -4 to 2; blue: above 0, red: below"
    script = (
        "const drawn = document.querySelector('.heat-map canvas').getContext('2d');"
        "return [0, 1, 2].map(x => [...drawn.getImageData(x, 7, 1, 1).data])"
    )
    low, high, zero = echo.driver.execute_script(script)
    assert (low, zero) == ([255, 0, 0, 255], [255] * 4)
    assert high[0] == high[1] < high[2] == 255


def test_bars_of_small_numbers_fill_the_width_if_some_are_negative(echo: Page) -> None:
    echo.body = {"instances": [{"prediction": {"radius": 0.02, "area": -0.01}}]}
    echo.send()
    bars = echo.driver.find_elements(By.CSS_SELECTOR, ".bar span")
    widths = [bar.value_of_css_property("width") for bar in bars]
    assert float(widths[0][:-2]) == pytest.approx(2 * float(widths[1][:-2]), rel=0.02)
    assert float(widths[0][:-2]) > 50


@pytest.mark.parametrize("width", [360, 768, 1920])
def test_nothing_is_wider_than_the_window(echo: Page, width: int) -> None:
    echo.set_width(width)
    prediction = {"a" * 80: 0.5, "b": 0.25}
    echo.body = {
        "instances": [{"prediction": prediction}, {"prediction": "x" * 300}, {"prediction": 1}]
    }
    echo.send()
    sizes = echo.driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    echo.set_width(0)
    assert sizes[0] <= width == sizes[1]


def stream_body(*instances: Any) -> dict[str, Any]:
    return {"instances": instances, "parameters": {"stream": True}}


def test_parts_of_a_stream_are_shown_as_they_arrive(echo: Page, tmp_path: Path) -> None:
    wait = tmp_path / "continue"
    echo.body = stream_body({"parts": ["The ", "first", " end"], "wait": str(wait)})
    echo.find("send").click()
    wait_for(lambda: echo.text("answer") == "The first", 10, "the first parts")
    wait.touch()
    wait_for(lambda: echo.text("answer") == "The first end", 10, "the last part")
    wait_for(lambda: "has ended" in echo.status_text, 10, "the end")
    assert "ms to the first part" in echo.text("status")


def test_parts_that_are_no_texts_and_the_error_at_the_end_are_shown(echo: Page) -> None:
    echo.body = stream_body({"parts": [{"n": 1}, {"n": 2}]}, {"parts": ["a", "fail"]})
    echo.send()
    wait_for(lambda: "ended with an error" in echo.status_text, 10, "the end")
    assert echo.text("answer") == "Instance 0\nn\n1\n2\nInstance 1\na\ninstances[1]: stream failed"


def test_invalid_stream_request_is_answered_as_any_other(echo: Page) -> None:
    echo.body = stream_body({})
    assert "prediction: missing" in echo.send()
    assert echo.text("status").startswith("400 INVALID_ARGUMENT")


def test_commands_for_a_stream_print_its_parts(echo: Page) -> None:
    select = Select(echo.find("example"))
    select.select_by_index(len(select.options) - 1)
    assert '"stream": true' in echo.body
    echo.body = stream_body({"parts": ["a", "b"]})
    for name, program in (("curl", ["bash"]), ("Python", [sys.executable, "-"])):
        command = echo.copy(name)
        done = subprocess.run(
            program, input=command, capture_output=True, text=True, timeout=60, check=False
        )
        events = [json.loads(line) for line in done.stdout.splitlines()]
        assert [event["part"] for event in events] == ["a", "b"], done
    assert "gcloud ai endpoints stream-raw-predict echo " in echo.copy("gcloud")
