"""What a user does on the page, and what the user sees there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.http import wait_for

TIMEOUT_S = 20


@contextmanager
def open_chromium(profile: Path) -> Iterator[Chrome]:
    """Start Debian's Chromium without a window; `profile` is an empty folder."""
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    # Chromium has no sandbox for root, and /dev/shm is small in a container.
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1280,1000"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService("/usr/bin/chromedriver"))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """The page in a browser."""

    def __init__(self, driver: Chrome, address: str) -> None:
        self.driver, self.address = driver, address
        driver.get(address)
        wait_for(lambda: self.body, TIMEOUT_S, "the page has its first request")

    def find(self, element_id: str) -> WebElement:
        return self.driver.find_element(By.ID, element_id)

    def text(self, element_id: str) -> str:
        return self.find(element_id).text

    @property
    def status_text(self) -> str:
        """The text of the status, with what only a screen reader reads."""
        return str(self.find("status").get_property("textContent"))

    @property
    def body(self) -> str:
        """The text in the editor."""
        return str(self.find("body").get_property("value"))

    @body.setter
    def body(self, body: Any) -> None:
        self.find("body").clear()
        self.find("body").send_keys(body if isinstance(body, str) else json.dumps(body))

    @property
    def sent_body(self) -> Any:
        """The body as it is sent, with the files in it."""
        return json.loads(self.driver.execute_script("return expand(find('body').value)"))

    def send(self) -> str:
        """Send the request with the button; return the text of the answer."""
        self.find("send").click()
        return self.wait_for_answer()

    def wait_for_answer(self) -> str:
        """Return the text of the answer once its status and milliseconds are shown."""
        wait_for(lambda: " ms" in self.text("status"), TIMEOUT_S, "an answer")
        return self.text("answer")

    def press(self, *keys: str) -> None:
        """Press keys on whatever has the focus."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def press_with_control(self, key: str) -> None:
        ActionChains(self.driver).key_down(Keys.CONTROL).send_keys(key).key_up(
            Keys.CONTROL
        ).perform()

    def tab_to(self, element_id: str) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(60):
            if self.driver.switch_to.active_element.get_dom_attribute("id") == element_id:
                return
            self.press(Keys.TAB)
        raise AssertionError(f"{element_id} cannot be reached with Tab")

    def copy(self, name: str) -> str:
        """Press a copy button; return the clipboard."""
        permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
        self.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
        selector = f"button[aria-label='Copy for {name}']"
        self.driver.find_element(By.CSS_SELECTOR, selector).click()
        wait_for(lambda: name in self.text("copied"), TIMEOUT_S, "the copy is announced")
        return str(self.driver.execute_script("return navigator.clipboard.readText()"))

    def emulate_media(self, **features: str) -> None:
        """Set media features such as prefers_color_scheme="dark"."""
        listed = [{"name": name.replace("_", "-"), "value": v} for name, v in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": listed})

    def set_width(self, width: int) -> None:
        """Set the width of the window; 0 restores it."""
        size = {"width": width, "height": 900 if width else 0}
        size |= {"deviceScaleFactor": 0, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
