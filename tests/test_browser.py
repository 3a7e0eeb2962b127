"""The pages of walkthroughs in a real browser: Chromium without a screen, the network switched off.

It needs Chromium with its chromedriver, and selenium; without them the tests are skipped, unless FASTCONV_BROWSER is 1
(`.ci/run browser` sets it): then that is a failure.
"""

from __future__ import annotations

import base64
import io
import math
import os
import shutil
from fractions import Fraction

import numpy as np
import pytest
from cases import Draw
from cases.pool import small_net, squares, squares_vjp
from test_chapter import W, X, Y, plane

import fastconv as fc
from fastconv.analysis import walkthrough
from fastconv.analysis.walkthrough.numbers import brief, shown

pytestmark = pytest.mark.browser

TELEPHONE = {"width": 360, "height": 740}
SMALLEST_TEXT = 12  # CSS pixels


def missing(what):
    if os.environ.get("FASTCONV_BROWSER") == "1":
        pytest.fail(f"FASTCONV_BROWSER=1, but there is no {what}")
    pytest.skip(f"no {what}: the pages are not opened")


@pytest.fixture(scope="module")
def browser():
    """Chromium; what a page writes to its console is kept."""
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        missing("selenium")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if not chromium or not chromedriver:
        missing("chromium with chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900",
                     "--host-resolver-rules=MAP * ~NOTFOUND"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, tmp_path):
    """page(walk, telephone=False): opened from its file; at the end the console must be empty."""
    browser.get_log("browser")

    def opened(walk, telephone=False):
        walk.html(tmp_path / "walk.html")
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        if telephone:
            metrics = {**TELEPHONE, "deviceScaleFactor": 2, "mobile": True}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get((tmp_path / "walk.html").as_uri())
        return browser

    yield opened
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []


def state(browser):
    """(number, value, text) as the page shows them."""
    return tuple(
        browser.execute_script(
            "const value = document.getElementById('value');"
            "return [Number(document.getElementById('step').value) - 1, Number(value.dataset.value),"
            "        document.getElementById('text').textContent, value.textContent];"
        )
    )


def assert_at(browser, walk, number):
    step = walk[number]
    at, value, text, line = state(browser)
    assert at == number
    assert value == pytest.approx(step.value, rel=1e-12, abs=1e-12, nan_ok=True)
    assert text == step.text
    assert line.split(" = ")[1] in step.text


def click(browser, name):
    browser.find_element("id", name).click()


def press(browser, key):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(browser).send_keys(getattr(Keys, key)).perform()


def cells(browser, panel, kept=":not(.outside)"):
    return browser.execute_script(
        f"return [...document.querySelectorAll('#{panel} svg g{kept} text')].map(text => ["
        "  +text.closest('svg').getBoundingClientRect().top, +text.closest('svg').getBoundingClientRect().left,"
        "  +text.getAttribute('y'), +text.getAttribute('x'), text.textContent]).sort((a, b) =>"
        "  a[0] - b[0] || a[1] - b[1] || a[2] - b[2] || a[3] - b[3]).map(each => each[4]);"
    )


def example(name):
    draw = Draw(4, kind="floats")
    x = draw(1, 3, 10, 10)
    return {
        "chapter": lambda: walkthrough("conv2d", plane(X), plane(W)),
        "10x10": lambda: walkthrough("conv2d", x[:, :1], draw(1, 1, 3, 3), draw(1), padding=1, stride=2),
        "channels": lambda: walkthrough("conv2d", draw(2, 4, 4, 3), draw(4, 2, 2, 2), draw(4), groups=2),
        "dx": lambda: walkthrough("conv2d", draw(1, 2, 5, 4), draw(3, 2, 3, 2), stride=2, padding=1, direction="dx"),
        "fraction": lambda: walkthrough("conv1d", draw(1, 1, 5), draw(1, 1, 3), stride=Fraction(3, 2), direction="dx"),
        "dw": lambda: walkthrough(
            "conv2d", draw(2, 2, 5, 4), draw(1, 2, 3, 2), padding=((0, 1), (1, 0)), direction="dw"
        ),
        "transposed": lambda: walkthrough("conv_transpose2d", draw(1, 2, 2, 3), draw(2, 1, 2, 2), draw(1), stride=2),
        "volume": lambda: walkthrough("conv3d", draw(1, 1, 3, 3, 3), draw(1, 1, 2, 2, 2), direction="dx"),
        "max": lambda: walkthrough("max_pool2d", plane(Y), 2, stride=1, padding=1),
        "max dx": lambda: walkthrough("max_pool2d", plane(Y), 2, stride=1, direction="dx"),
        "mean": lambda: walkthrough("avg_pool2d", plane(Y), 2, stride=1),
        "mean dx": lambda: walkthrough("avg_pool2d", plane(Y), 3, stride=2, padding=1, direction="dx"),
        "norm dx": lambda: walkthrough("lp_pool2d", plane(Y), 2, 2, stride=1, direction="dx"),
        "function": lambda: walkthrough("function_pool2d", plane(Y), squares, 2, vjp=squares_vjp),
        "network dx": lambda: walkthrough(fc.NetworkPool2d(small_net(4), 2), plane(Y), direction="dx"),
        "adaptive": lambda: walkthrough("adaptive_avg_pool2d", plane(Y), (2, 3), direction="dx"),
        "upsample": lambda: walkthrough("upsample", plane(Y)[..., :2, :3], 2, output_size=(4, 6), direction="dx"),
        "downsample": lambda: walkthrough("downsample", plane(Y), 2, phase=1, direction="dx"),
        "linear": lambda: walkthrough("resize", plane(Y)[..., :2, :3], scale=2, mode="linear", direction="dx"),
    }[name]()


EXAMPLES = (
    "chapter", "10x10", "channels", "dx", "fraction", "dw", "transposed", "volume", "max", "max dx", "mean", "mean dx",
    "norm dx", "function", "network dx", "adaptive", "upsample", "downsample", "linear",
)  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_step_shows_its_value(page, name):
    """Forward by the button, back by the arrow key; what stands in the result at the end is the result."""
    walk = example(name)
    browser = page(walk)
    for view in [walk] + [walk.scattered] * (walk.scattered is not None):
        if walk.scattered is not None:
            click(browser, view.manner)
        for number in range(len(view)):
            assert_at(browser, view, number)
            click(browser, "forth")
        assert_at(browser, view, len(view) - 1)  # there is none behind the last
        for number in range(len(view) - 1, max(len(view) - 7, 0), -1):
            assert_at(browser, view, number)
            press(browser, "ARROW_LEFT")
        press(browser, "HOME")
        assert_at(browser, view, 0)
        press(browser, "ARROW_LEFT")  # there is none before the first
        assert_at(browser, view, 0)
        press(browser, "END")
        assert_at(browser, view, len(view) - 1)
        lead = view._at(len(view) - 1)[:2]
        if view.manner == "collect":
            expected = [brief(step.value, view._noise(step.products)) for step in view if step.at[:2] == lead]
        else:  # every channel that the last step adds to; the bias is not in it yet
            bias = np.zeros(()) if view.bias is None else view.bias.reshape(-1, *(1,) * (view.result.ndim - 2))
            made = (view.result - bias)[view._reading.channels(*lead)]
            expected = [brief(value, 1e-12) for value in made.reshape(-1)]
        assert [text or "0" for text in cells(browser, "result")] == expected


def test_the_slider(page):
    walk = example("10x10")
    browser = page(walk)
    for number in (7, 3, 24, 0, 11):
        browser.execute_script(
            "const slider = document.getElementById('step'); slider.value = arguments[0] + 1;"
            "slider.dispatchEvent(new Event('input', {bubbles: true}));", number,
        )  # fmt: skip
        assert_at(browser, walk, number)
    slider = browser.find_element("id", "step")
    slider.send_keys("")  # the focus is on it: the arrow keys move it, one step a key
    press(browser, "ARROW_RIGHT")
    assert_at(browser, walk, 12)
    press(browser, "HOME")
    assert_at(browser, walk, 0)


def test_the_window_is_where_the_step_reads(page):
    walk = example("chapter")
    browser = page(walk)
    for number in (0, 5, 11):
        browser.execute_script("go(arguments[0])", number)
        expected = [brief(value) for value in walk[number].window.reshape(-1)]
        assert cells(browser, "read", ".seen") == expected
        assert cells(browser, "products", ".seen") == [brief(value) for value in walk[number].products.reshape(-1)]
        assert cells(browser, "result", ".now") == [shown(walk[number].value)]


@pytest.mark.parametrize(("padding", "direction"), [(0, "dx"), (1, "dx"), (1, "forward")])
def test_x_stands_under_the_windows_of_a_maximum(page, padding, direction):
    """Of every step: the windows that it is about, and the maximum of them."""
    kernel, stride = 2, 1 + padding
    options = {"kernel_size": kernel, "stride": stride, "padding": padding, "direction": direction}
    walk = walkthrough("max_pool2d", plane(Y), **options)
    browser = page(walk)
    height, width = np.shape(Y)
    for view in [walk] + [walk.scattered] * (walk.scattered is not None):
        if walk.scattered is not None:
            click(browser, view.manner)
        for number in range(len(view)):
            browser.execute_script("go(arguments[0])", number)
            about = [view[number].at[2:]] if view is not walk or direction == "forward" else [
                at for at in np.ndindex(walk._maxima.winners.shape[2:])
                if walk._maxima.winners[0, 0][at] == np.ravel_multi_index(view[number].at[2:], (height, width))
            ]  # fmt: skip
            under = np.zeros((height + 2 * padding, width + 2 * padding), bool)
            for row, column in about:
                under[row * stride : row * stride + kernel, column * stride : column * stride + kernel] = True
            inside = under[padding : padding + height, padding : padding + width]
            panel = "read" if direction == "forward" else "source"
            marked = cells(browser, panel, ".now:not(.outside)")
            seen = cells(browser, panel, ".seen:not(.outside)")
            assert seen == [brief(value) for value in np.array(Y)[inside]]
            assert len(cells(browser, panel, ".outside.seen")) == under.sum() - inside.sum()
            assert marked == [brief(np.array(Y)[view[number].at[2:]] if view is walk and direction == "dx"
                                    else np.array(Y).ravel()[walk._maxima.winners[view[number].at]])]  # fmt: skip


def test_playing_and_pausing(page):
    from selenium.webdriver.support.ui import WebDriverWait

    browser = page(example("chapter"))
    press(browser, "SPACE")
    WebDriverWait(browser, 20).until(lambda driver: state(driver)[0] >= 2)
    button = browser.find_element("id", "play")
    assert button.get_attribute("aria-pressed") == "true"
    assert button.accessible_name == "Pause"
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    stopped = state(browser)[0]
    assert browser.execute_async_script("setTimeout(() => arguments[0](now), 1000)") == stopped


def test_everything_has_a_name(page):
    browser = page(example("dx"))
    for element in browser.find_elements("css selector", "button, input, svg, output, [role=group]"):
        if element.is_displayed() and element.tag_name != "output":
            assert element.accessible_name.strip(), element.get_attribute("outerHTML")[:120]
    assert browser.find_element("id", "value").get_attribute("aria-live") == "polite"
    assert browser.find_element("css selector", "html").get_attribute("lang") == "en"


def test_a_keyboard_reaches_every_button(page):
    browser = page(example("dx"))
    seen = []
    for _ in range(8):
        press(browser, "TAB")
        seen.append(browser.execute_script("return document.activeElement.id"))
    assert seen == ["collect", "scatter", "first", "back", "forth", "last", "play", "step"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_on_a_telephone(page, name):
    """No scrolling sideways, no small text, nothing outside the screen, and something to see."""
    pillow = pytest.importorskip("PIL.Image")
    browser = page(example(name), telephone=True)
    views = browser.execute_script("return views.length")
    for view in range(views):
        browser.execute_script("show(views[arguments[0]]); go(Math.floor(view.values.length / 2))", view)
        width, scrolls = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
        assert (width, scrolls) == (TELEPHONE["width"], TELEPHONE["width"])
        sizes = browser.execute_script(
            "const found = [];"
            "for (const text of document.querySelectorAll('body *')) {"
            "  if (![...text.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;"
            "  if (['SCRIPT', 'STYLE', 'NOSCRIPT'].includes(text.tagName)) continue;"
            "  const svg = text.closest('svg');"
            "  const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;"
            "  found.push([parseFloat(getComputedStyle(text).fontSize) * scale, text.textContent]);"
            "} return found;"
        )
        assert len(sizes) > 10
        small = [each for each in sizes if each[0] < SMALLEST_TEXT]
        assert not small
        overlaps = browser.execute_script(
            "const cut = [];"
            "for (const cell of document.querySelectorAll('svg g')) {"
            "  const [box, text] = [...cell.children].map(each => each.getBoundingClientRect());"
            "  if (text.width > box.width || text.height > box.height + 1) cut.push(cell.textContent);"
            "} return cut;"
        )
        assert overlaps == []
    clip = {"x": 0, "y": 0, **TELEPHONE, "scale": 1}
    png = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": False})["data"]
    image = np.asarray(pillow.open(io.BytesIO(base64.b64decode(png))).convert("RGB")).astype(int)
    assert image.shape == (2 * TELEPHONE["height"], 2 * TELEPHONE["width"], 3)
    inked = (image.min(axis=2) < 128).mean()
    assert 0.01 < inked < 0.3
    blue = (np.abs(image - [0, 114, 178]).max(axis=2) < 12).mean()  # the slider, the window's edge
    assert blue > 0.001


def test_numbers_are_written_as_in_python(page):
    browser = page(example("chapter"))
    rng = np.random.default_rng(5)
    values = [0.0, -0.0, 1.0625, -1.0625, 999999.9, 99999.96, 1e-4, 9.9996e-5, 0.00099996, 1e6, 123456.7, math.pi]
    values += [*(rng.normal(size=200) * 10.0 ** rng.integers(-9, 9, 200)), *(rng.integers(-999, 999, 100) / 64)]
    found = browser.execute_script("return arguments[0].map(value => [shown(value), brief(value)])", values)
    assert found == [[shown(value), brief(value)] for value in values]
