"""Draw docs/page.png, the page with an answer of the digits: make archive, then python -m tests.page.screenshot."""

import base64
import tempfile
from pathlib import Path

import torch

from handler.loading import load_model
from project.model_folder import find_model
from tests.images import ROOT
from tests.page.browser import Page, open_chromium
from tests.page.conftest import serve_page, serve_task

TARGET = ROOT / "docs" / "page.png"
WIDTH = 1180
URL = "http://127.0.0.1:8080/predictions/digits"
"""The address with make serve; here the model is on a free port."""


def main() -> None:
    """Send the first request of the model, and write the picture."""
    model = find_model("digits")
    torch.set_num_threads(1)
    task = load_model(model.path, torch.device("cpu"))
    with (
        tempfile.TemporaryDirectory() as profile,
        serve_task(task, model.name) as url,
        serve_page(model.archive, url) as address,
        open_chromium(Path(profile)) as chromium,
    ):
        page = Page(chromium, address)
        page.set_width(WIDTH)
        chromium.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        page.body = page.body.replace("\n  ]\n}", '\n  ],\n  "parameters": {"top_k": 6}\n}')
        for _ in range(20):  # the first ones are slower
            page.send()
        chromium.execute_script(
            "find('url').textContent = arguments[0]; document.activeElement.blur()", URL
        )
        height = page.find("request").rect["y"] + page.find("request").rect["height"] + 16
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
        picture = chromium.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip})
        TARGET.write_bytes(base64.b64decode(picture["data"]))
    print(f"{TARGET}  {TARGET.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
