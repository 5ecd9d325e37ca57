"""The page in Chromium: requests, pictures, drawings, answers, errors, copies, the keyboard, and other senses."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from tests.http import wait_for
from tests.images import REQUESTS
from tests.page.browser import Page

pytestmark = pytest.mark.xdist_group("page")  # one browser

GREY_7 = Image.new("L", (40, 30), 190)
"""The toy's label is 7."""


def decode(instance: Any) -> Image.Image:
    """Return the picture in an instance."""
    return Image.open(io.BytesIO(base64.b64decode(instance["b64"])))


def grey_file(folder: Path) -> str:
    """Write the picture with the label 7 as a file."""
    GREY_7.save(folder / "grey.png")
    return str(folder / "grey.png")


def test_an_example_is_chosen_sent_and_answered_with_label_scores_and_milliseconds(
    toy: Page,
) -> None:
    assert toy.text("name") == "toy"
    assert '"<file 1: PNG, ' in toy.body
    answer = toy.send()
    assert "label\n3" in answer
    assert "0.9958" in answer
    assert toy.text("status").startswith("200 OK")
    Select(toy.find("example")).select_by_index(1)
    assert '"top_k": 2' in toy.body
    assert "label\n7" in toy.send()
    bars = toy.driver.find_elements(By.CSS_SELECTOR, ".scores .bar span")
    widths = [bar.size["width"] for bar in bars]
    assert len(widths) == 2
    assert widths == sorted(widths, reverse=True)
    assert "→ 7" in Select(toy.find("example")).first_selected_option.text


def test_broken_json_is_explained_beside_the_editor_and_not_sent(toy: Page) -> None:
    toy.body = '{"instances": [1,}'
    assert toy.text("body-error").startswith("Not JSON: ")
    assert toy.find("body").get_dom_attribute("aria-invalid") == "true"
    toy.find("send").click()
    assert toy.text("status") == "Nothing has been sent."
    assert toy.driver.switch_to.active_element == toy.find("body")
    toy.body = "[1]"
    assert toy.text("body-error").startswith('Expected {"instances": [...]')
    toy.body = {"instances": [3]}
    assert toy.text("body-error") == ""
    assert toy.find("body").get_dom_attribute("aria-invalid") == "false"


def test_a_chosen_picture_replaces_that_of_the_example(toy: Page, tmp_path: Path) -> None:
    Select(toy.find("example")).select_by_index(1)
    toy.find("file").send_keys(grey_file(tmp_path))
    files = len(json.loads(REQUESTS.read_text()))
    wait_for(lambda: f"file {files + 1}" in toy.body, 10, "the file is read")
    assert '"top_k": 2' in toy.body
    assert decode(toy.sent_body["instances"][0]).size == (40, 30)
    assert "label\n7" in toy.send()


def test_a_dropped_picture_replaces_that_of_the_example(toy: Page, tmp_path: Path) -> None:
    place = toy.find("body").rect
    data = {"items": [], "files": [grey_file(tmp_path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        position = {"x": place["x"] + 20, "y": place["y"] + 20}
        event = {"type": kind, "data": data, **position}
        toy.driver.execute_cdp_cmd("Input.dispatchDragEvent", event)
    wait_for(lambda: decode(toy.sent_body["instances"][0]).size == (40, 30), 10, "the drop")
    assert "label\n7" in toy.send()


def test_a_file_that_is_not_a_picture_is_reported(toy: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("text")
    toy.find("file").send_keys(str(tmp_path / "notes.png"))
    expected = "notes.png is not a picture that this browser can read."
    wait_for(lambda: toy.text("body-error") == expected, 10, "the message")


def test_a_drawing_has_the_size_and_colours_of_the_examples_picture(toy: Page) -> None:
    toy.find("draw").click()
    assert toy.find("draw").get_dom_attribute("aria-expanded") == "true"
    canvas = toy.find("canvas")
    pointer = ActionChains(toy.driver).move_to_element(canvas).move_by_offset(-100, 0)
    pointer.click_and_hold().move_by_offset(200, 0).release().perform()
    drawn = decode(toy.sent_body["instances"][0]).convert("L")
    assert drawn.size == (28, 28)
    pixel = {y: drawn.getpixel((14, y)) for y in (2, 14, 26)}
    assert pixel == {2: 0, 14: 255, 26: 0}  # light on dark, as the example
    assert "label\n0" in toy.send()
    toy.find("clear").click()
    cleared = decode(toy.sent_body["instances"][0]).convert("L")
    assert cleared.getextrema() == (0, 0)


def test_the_keyboard_draws_too(toy: Page) -> None:
    toy.tab_to("draw")
    toy.press(Keys.ENTER)
    assert toy.driver.switch_to.active_element == toy.find("canvas")
    toy.press(Keys.SPACE, *[Keys.ARROW_RIGHT] * 10, Keys.SPACE)
    drawn = decode(toy.sent_body["instances"][0]).convert("L")
    assert [drawn.getpixel((x, 14)) for x in (4, 18, 22)] == [0, 255, 255]


def test_an_error_names_its_instances(toy: Page) -> None:
    Select(toy.find("example")).select_by_index(0)
    valid = toy.sent_body["instances"][0]
    toy.body = {"instances": [valid, {"b64": "!!"}, None]}
    answer = toy.send()
    assert toy.text("status").startswith("400 INVALID_ARGUMENT")
    assert "Instance 1: not base64" in answer
    assert "Instance 2: expected " in answer
    assert "Instance 0" not in answer


def test_an_error_in_place_of_a_prediction_is_shown_beside_the_others(toy: Page) -> None:
    valid = toy.sent_body["instances"][0]
    toy.body = {"instances": [valid, None], "parameters": {"on_error": "return"}}
    answer = toy.send()
    assert "Instance 0\nlabel\n3" in answer
    assert "Instance 1\nexpected " in answer


def test_copied_commands_give_the_same_answer(toy: Page) -> None:
    Select(toy.find("example")).select_by_index(1)
    curl = subprocess.run(
        ["bash", "-c", toy.copy("curl")], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(curl.stdout)["predictions"][0]["label"] == "7"
    python = subprocess.run(
        [sys.executable, "-c", toy.copy("Python")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "'label': '7'" in python.stdout


def test_the_copied_gcloud_command_writes_the_request_that_it_sends(
    toy: Page, tmp_path: Path
) -> None:
    command = toy.copy("gcloud")
    gcloud = 'gcloud() { echo "$@"; }\n'
    done = subprocess.run(
        ["bash", "-c", gcloud + command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    options = "--project=my-project --region=us-central1 --json-request=request.json"
    assert done.stdout == f"ai endpoints predict toy {options}\n"
    assert json.loads((tmp_path / "request.json").read_text()) == toy.sent_body


def test_the_keyboard_alone_chooses_edits_sends_and_copies(toy: Page) -> None:
    toy.tab_to("example")
    toy.press(Keys.ARROW_DOWN)
    assert '"top_k": 2' in toy.body
    toy.tab_to("file")
    toy.tab_to("body")
    toy.press_with_control(Keys.ENTER)
    assert "label\n7" in toy.wait_for_answer()
    toy.tab_to("send")
    toy.press(Keys.ENTER)
    assert "label\n7" in toy.wait_for_answer()


def test_the_focus_is_visible(toy: Page) -> None:
    for element in ("example", "body", "send"):
        toy.tab_to(element)
        assert toy.find(element).value_of_css_property("outline-style") == "solid"


def test_every_control_has_a_name_and_every_id_is_unique(toy: Page) -> None:
    toy.find("draw").click()
    toy.send()
    controls = "a, button, input, select, textarea, canvas, summary, [tabindex], [role=group], form"
    found = [
        (each.aria_role, each.accessible_name)
        for each in toy.driver.find_elements(By.CSS_SELECTOR, controls)
        if each.is_displayed()
    ]
    assert len(found) > 12
    assert all(name for _, name in found), found
    assert len({name for role, name in found if role == "button"}) == 8
    ids = "return [...document.querySelectorAll('[id]')].map(each => each.id)"
    listed = toy.driver.execute_script(ids)
    assert len(listed) == len(set(listed))
    images = toy.driver.find_elements(By.TAG_NAME, "img")
    assert all(each.get_dom_attribute("alt") for each in images)
    assert toy.find("status").aria_role == "status"
    headings = "return [...document.querySelectorAll('h1, h2, h3')].map(each => each.tagName)"
    assert toy.driver.execute_script(headings)[:2] == ["H1", "H2"]


def test_the_answer_is_announced_with_its_status(toy: Page) -> None:
    toy.send()
    announced = toy.find("status").get_property("textContent")
    assert str(announced).startswith("200 OK")
    assert str(announced).endswith(" ms3")


CONTRAST = r"""
const parse = text => text.match(/[\d.]+/g).map(Number);
const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const background = each => { const colour = parse(getComputedStyle(each).backgroundColor);
  return colour[3] === 0 ? background(each.parentElement) : colour; };
const found = [];
for (const each of document.querySelectorAll("body *")) {
  const hasText = [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  if (!(hasText || each.matches("textarea, select")) || !each.checkVisibility()) continue;
  if (each.matches("script, option")) continue;
  const [a, b] = [parse(getComputedStyle(each).color), background(each)].map(luminance);
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) found.push(`${each.tagName} ${each.className} ${each.textContent.slice(0, 20)} ${ratio}`);
}
return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(toy: Page, scheme: str) -> None:
    toy.emulate_media(prefers_color_scheme=scheme)
    toy.find("draw").click()
    toy.send()
    assert toy.driver.execute_script(CONTRAST) == []
    toy.body = '{"instances": [null]}'
    toy.send()
    toy.body = "{"
    assert toy.driver.execute_script(CONTRAST) == []
    background = toy.find("name").find_element(By.XPATH, "/html/body")
    is_dark = "17, 20, 24" in background.value_of_css_property("background-color")
    assert is_dark == (scheme == "dark")
    toy.emulate_media()


def test_nothing_is_loaded_from_elsewhere_and_nothing_fails(toy: Page) -> None:
    toy.driver.get_log("browser")  # type: ignore[no-untyped-call]
    toy.driver.refresh()
    wait_for(lambda: toy.body, 10, "the page")
    toy.send()
    names = "return performance.getEntriesByType('resource').map(each => each.name)"
    loaded = toy.driver.execute_script(names)
    assert {f"{toy.address}{path}" for path in ("model.json", "predict")} <= set(loaded)
    assert all(name.startswith((toy.address, "data:", "blob:")) for name in loaded)
    assert toy.driver.get_log("browser") == []  # type: ignore[no-untyped-call]
