"""The dashboard in a real browser: following, filtering without leaving, curves, clicks."""

import asyncio
import re
import shutil
import threading

import made_up
import pytest
import uvicorn

from tiebreak.records.store import RecordStore
from tiebreak.watching.pages import Dashboard
from tiebreak.watching.serving import LOOK_SECONDS, _listener, application

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync")  # fmt: skip

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def study():
    return made_up.big_study(120)


@pytest.fixture(scope="module")
def root(study, tmp_path_factory):
    return made_up.fill(tmp_path_factory.mktemp("live"), study, count=100, durable=False).root


@pytest.fixture(scope="module")
def address(root):
    dashboard = Dashboard(root)
    listener = _listener("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(dashboard), log_level="warning", lifespan="off"))
    ended = threading.Event()

    def look():
        while not ended.wait(LOOK_SECONDS):
            dashboard.look()

    threads = [
        threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener]))),
        threading.Thread(target=look),
    ]
    for thread in threads:
        thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    ended.set()
    for thread in threads:
        thread.join()
    listener.close()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """A page that fails the test where a script does, or where anything is asked from elsewhere."""
    page = browser.new_page(base_url=address)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: None if request.url.startswith(address) else wrong.append(request.url))
    yield page
    page.close()
    assert not wrong


def test_a_new_record_is_shown_within_two_seconds(page, root, study):
    page.goto("/")
    page.get_by_text("100 of 120 trials done").wait_for()
    store = RecordStore(root)
    for trial in study.trials[100:103]:
        store.write(made_up.record(trial))
    # looked for once a second and asked for once a second; the rest is this machine's, which others share
    page.get_by_text("103 of 120 trials done").wait_for(timeout=10_000)


def test_typing_filters_and_the_address_can_be_kept(page, study):
    page.goto("/trials/big")
    page.locator("#q").press_sequentially("precision=bf16 replicate=1", delay=5)
    expected = sum(trial.cell.precision == "bf16" and trial.replicate == 1 for trial in study.trials)
    page.get_by_text(f"{expected} of 120 trials").wait_for()
    assert page.evaluate("document.activeElement.id") == "q"
    page.wait_for_url(re.compile("precision%3Dbf16"))
    page.reload()
    page.get_by_text(f"{expected} of 120 trials").wait_for()
    page.get_by_role("link", name="Map", exact=True).click()
    page.wait_for_url(re.compile("/map/big.*precision%3Dbf16"))


def test_sorting_goes_on_while_the_filter_changes(page):
    page.goto("/trials/big")
    page.get_by_role("link", name="accuracy", exact=True).click()
    page.locator("th[aria-sort=ascending]").wait_for()
    page.locator("#q").fill("protocol=train state=completed")
    page.wait_for_url(re.compile("q=protocol.*sort=result"))
    shown = page.locator("table.trials tbody tr td:nth-child(4)").all_inner_texts()
    values = [float(text.split()[0]) for text in shown]
    assert values == sorted(values)
    page.go_back()
    page.wait_for_url(re.compile("sort=result"))


def test_chosen_trials_are_overlaid_across_pages(page):
    page.goto("/trials/big?q=protocol%3Dtrain%20state!%3Dleft")
    for box in page.locator("input.choose").all()[:12]:
        box.check()
    page.get_by_role("link", name="Next").click()
    page.get_by_text("page 2 of").wait_for()
    for box in page.locator("input.choose").all()[:10]:
        box.check()
    link = page.get_by_role("link", name="Overlay 22 chosen")
    link.click()
    page.locator("#chart[data-drawn='22']").wait_for()
    assert page.locator("#legend tbody tr").count() == 22
    page.locator("#legend input[data-line='0']").uncheck()
    assert page.locator("#chart canvas").count() == 1


def test_a_click_on_a_curve_opens_its_trial(page):
    page.goto("/curves/big?q=protocol%3Dtrain%20state%3Dcompleted&n=1")
    page.locator("#chart[data-drawn='1']").wait_for()
    trial = page.locator("#legend tbody tr a").inner_text()
    box = page.locator("#chart .u-over").bounding_box()
    for share in range(2, 40):  # down the middle until the curve is near
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * share / 40)
        if page.locator("#legend tr.near").count():
            break
    page.mouse.down()
    page.mouse.up()
    page.wait_for_url(re.compile(f"/trial/{trial}"))


def test_a_place_of_the_map_and_a_point_of_the_plot_lead_to_their_trials(page):
    page.goto("/map/big?show=done&rows=precision&columns=beta")
    page.locator("table.heat td a").first.click()
    page.wait_for_url(re.compile("/trials/big"))
    page.goto("/zones/big")
    page.locator("svg.zones a circle").first.click()
    page.wait_for_url(re.compile("/trials/big.*zones"))
    page.locator("table.trials tbody a").first.click()
    page.get_by_role("heading", name="Provenance").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_view_is_wider_than_the_window(browser, address, scheme):
    page = browser.new_page(base_url=address, color_scheme=scheme, viewport={"width": 900, "height": 700})
    for view in ("", "map/big", "trials/big", "curves/big", "zones/big", "failures/big"):
        page.goto(f"/{view}")
        page.locator("#live").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") is (scheme == "light")
    page.close()
