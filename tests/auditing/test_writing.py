"""What is written: text, JSON and the page, which say the same."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from bs4 import BeautifulSoup
from nets import LABELS, Net, Normed, bifurcating, images

from tiebreak.auditing import audit
from tiebreak.auditing.verdict import number

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)


@pytest.fixture(scope="module")
def found():
    return audit(bifurcating(1), (images(), LABELS), precisions=["fp32", "bf16"])


@pytest.fixture(scope="module")
def soup(found):
    return BeautifulSoup(found.to_html(), "html.parser")


def test_json_holds_every_number(found):
    read = json.loads(found.to_json())
    assert [section["precision"] for section in read["sections"]] == ["fp32", "bf16"]
    for section, written in zip(found.sections, read["sections"], strict=True):
        assert written["label"] == "bifurcation" == str(section.label)
        assert written["verdict"] == section.verdict
        for layer, row in zip(section.layers, written["layers"], strict=True):
            assert row["own_gap"] == layer.own_gap
            assert row["truth"]["tied_only_by_rounding"] == layer.truth.tied_only_by_rounding
            assert row["where"] == vars(layer.where)
        assert written["evidence"]["primes"] == list(section.evidence.primes)
        assert written["rules"][0]["num_nonzero"] == section.rules[0].num_nonzero


def test_json_spells_what_is_not_finite():
    model = Net()
    with torch.no_grad():
        model.head.weight.fill_(6e4)
    text = audit(model, (images() + 1, LABELS), precisions=["fp16"], certify=False).to_json()
    section = json.loads(text, parse_constant=pytest.fail)["sections"][0]
    assert section["loss"] in ("nan", "inf")


def test_text_and_page_hold_the_same_rows(found, soup):
    text = " ".join(found.to_text().split())
    for section in found.sections:
        name = str(section.precision)
        assert section.verdict in text
        assert section.verdict == soup.select_one(f"#{name} .verdict").text
        for kind, rows in (
            ("rules", len(section.rules) + len(section.repeats)),
            ("pools", len(section.layers)),
        ):
            shown = [
                [cell.text for cell in row.select("td")] for row in soup.select(f"#{kind}-{name} tbody tr")
            ]
            assert len(shown) == rows
            for cells in shown:
                assert " ".join(cell for cell in cells if cell) in text
        assert number(section.culprit.own_gap) in soup.select_one(f"#pools-{name} tr.most").text


def test_the_page_stands_alone_and_is_in_order(found, soup):
    assert [item.text for item in soup.select("h2")] == ["At a glance", "fp32", "bf16", "How to read"]
    assert not soup.select("link[rel=stylesheet], script, iframe, img")
    assert not re.search(r"https?://|@import|url\(", found.to_html())
    assert [badge["class"] for badge in soup.select("#glance .badge")] == [["badge", "bifurcation"]] * 2
    assert len(soup.select("#fp32 .dot.rule")) == 2
    assert len(soup.select("#fp32 .dot.floor")) == 3


def test_what_is_not_known_is_a_dash_and_never_zero():
    soup = BeautifulSoup(audit(Normed(), (images(), LABELS)).to_html(), "html.parser")
    assert "Not certifiable, because" in soup.select_one("#fp32").text
    header = [item.text for item in soup.select("#pools-fp32 th")]
    row = [item.text for item in soup.select("#pools-fp32 tbody td")]
    for name in ("over reals", "by rounding", "missed"):
        assert row[header.index(name)] == "–"
    assert soup.select_one("#rules-fp32 td:nth-child(5)").text == "not known"


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_in_a_browser_nothing_is_fetched_and_nothing_overflows(found, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = Path(tmp_path) / "audit.html"
    path.write_text(found.to_html(), encoding="utf-8")
    flags = ["no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update"]
    complaints, requests = [], []
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in flags])
        for width in (1200, 480):
            tab = browser.new_page(viewport={"width": width, "height": 900})
            tab.on("console", lambda message: complaints.append(message.text))
            tab.on("pageerror", lambda error: complaints.append(str(error)))
            tab.on("request", lambda request: requests.append(request.url))
            tab.goto(path.as_uri())
            assert tab.evaluate(
                "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            )
            tracks = """Array.from(document.querySelectorAll(".gaps .dot"), (dot) => {
                const track = dot.parentElement.getBoundingClientRect(), box = dot.getBoundingClientRect();
                const middle = box.left + box.width / 2;
                return middle >= track.left - 2 && middle <= track.right + 2;
            })"""
            assert all(tab.evaluate(tracks))
        browser.close()
    assert complaints == []
    assert all(url.startswith(("file:", "data:")) for url in requests)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (3.14159e-5, "3.1e-05"), (0.0512, "0.051"), (1234.5, "1.2e+03")],
)
def test_numbers_have_two_digits(value, text):
    assert number(value) == text
