import base64
import csv
import io
import re
import shutil
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from tiebreak.design.axes import Forward, Precision
from tiebreak.report.answers import answers
from tiebreak.report.descent_figures import DESCENT_FIGURES
from tiebreak.report.figures import FIGURES
from tiebreak.report.html import page, write_report
from tiebreak.report.table_files import read_tables, write_tables
from tiebreak.report.theory_figures import THEORY_FIGURES
from tiebreak.report.wording import percent

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)

UNLABELLED = [
    kind
    for kind in FIGURES
    if kind not in (*DESCENT_FIGURES, *THEORY_FIGURES)
    and kind.table not in ("confusion", "certified", "windows")
]
"""Figures of a study without certified labels, as the made-up one is."""


@pytest.fixture(scope="module")
def text(study, tables_folder, figures_folder):
    return page(study, tables_folder, figures_folder, records_link="..")


@pytest.fixture(scope="module")
def soup(text):
    return BeautifulSoup(text, "html.parser")


def test_the_page_has_its_headings_in_order(soup, study):
    assert [item.text for item in soup.select("h2")] == [
        "Question", "Answer", "Outcomes", "Figures", "Tables", "How to read", "How to reproduce", "Records",
    ]  # fmt: skip
    levels = [int(item.name[1]) for item in soup.select("h1, h2, h3, h4, h5, h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert soup.html["lang"] == "en"
    assert study.question in soup.select_one("#question").text
    assert study.hypothesis in soup.select_one("#question").text  # with its angle brackets, escaped


def test_the_page_is_small_enough_to_send(text):
    assert len(text.encode()) < 6_000_000


def test_nothing_is_fetched(soup, text):
    assert not soup.select("link[rel=stylesheet], script[src], iframe, object")
    for tag, name in (("img", "src"), ("a", "href"), ("link", "href")):
        for item in soup.select(f"{tag}[{name}]"):
            assert item[name].startswith(("data:", "#", "../records/")), item[name][:60]
    assert not re.search(r"https?://|@import|url\(", text)


def test_every_figure_has_caption_provenance_and_table(soup):
    shown = soup.select("#figures figure")
    assert len(shown) == len(UNLABELLED)
    for figure, kind in zip(shown, UNLABELLED, strict=True):
        image = figure.img
        assert base64.b64decode(image["src"].split(",")[1]).startswith(b"\x89PNG")
        assert kind.caption in image["alt"]
        assert re.search(r"n: \d+ records", figure.figcaption.text)
        meta = figure.find_next("p", class_="meta").text
        for word in ("made by tiebreak tabulate made_up", "0123456789abcdef", "Made-up CPU", "2026-01-02"):
            assert word in meta
    assert len(soup.select("#figures a[download$='.pdf']")) == len(UNLABELLED)


def test_tables_can_be_sorted_and_downloaded(soup, tables_folder):
    for table in soup.select("table.sortable"):
        assert all(header["aria-sort"] == "none" and header.button for header in table.select("th"))
        assert all("data-sort" in cell.attrs for cell in table.select("td"))
    link = soup.select_one("a[download='zones.csv']")
    rows = list(csv.reader(io.StringIO(unquote(link["href"].split(",", 1)[1]))))
    assert rows == list(csv.reader(io.StringIO((tables_folder / "zones.csv").read_text())))


def test_outcomes_stand_by_protocol_with_the_columns_it_fills(soup, study):
    titles = [heading.text for heading in soup.select("#outcomes details h3")]
    assert sorted(titles) == sorted({trial.cell.protocol for trial in study.trials})
    cells = []
    for title in titles:
        table = soup.select_one(f"#table-outcomes-{title}")
        columns = zip(
            *([cell.text for cell in row.select("td")] for row in table.select("tbody tr")), strict=True
        )
        assert all(set(column) != {"–"} for column in columns)
        cells += [cell.text for cell in table.select("td:first-child")]
    assert sorted(cells) == sorted({trial.cell.id for trial in study.trials})


def test_every_trial_has_its_file(soup, study):
    links = [link["href"] for link in soup.select("#table-records a")]
    assert len(links) == len(study.trials)
    assert links[0].startswith("../records/")
    assert {trial.id for trial in study.trials} == {
        cell.text for cell in soup.select("#table-records td:first-child")
    }


def test_a_missing_number_is_never_zero(soup):
    cells = soup.select("#table-zones td[data-sort=nan]")
    assert cells
    assert {cell.text for cell in cells} == {"–"}


def test_the_first_sentences_answer_in_words(tables_folder):
    tables = read_tables(tables_folder)
    said = answers(tables, ["zones", "train", "noise"])
    assert len(said) <= 8
    assert said[0].startswith("Gradient: yes. The Jacobian chosen at ties changed it in fp16_rounded, bf16, ")
    assert "256 draws, 8 inits a cell" in said[0]
    accuracy = tables["accuracy"]
    other = accuracy[(accuracy["precision"] == "fp16_rounded") & (accuracy["beta"] != 0)]
    lost = int(other[["num_diverged", "num_not_learned", "num_failed"]].sum().sum())
    assert re.match(r"Trained network: yes in fp16_rounded \(p = 0\.0\d+\), where runs were lost", said[1])
    assert f"in fp16_rounded, {lost} of {int(other['num_planned'].sum())} runs were lost" in said[1]
    assert "against 0 of 12 at beta = 0" in said[1]
    assert "in fp32 all 36 reached the end above chance" in said[1]
    most = 100 * tables["pairs"].query("precision == 'fp32'")["difference_mean"].abs().max()
    assert f"at most {most:.2f} percentage points" in said[1]


def test_sentences_follow_from_the_tables(tables_folder):
    tables = read_tables(tables_folder)
    said = answers(tables, ["zones", "train", "noise"])
    row = tables["zones"].query(
        "recipe == 'relative' and precision == 'fp16_rounded' and num_inits_above > 0"
    )
    first = row.sort_values("beta").iloc[0]
    sizes = next(item for item in said if item.startswith("Gaps beyond 64 unit roundoffs"))
    assert (
        f"fp16_rounded at beta = {first['beta']:.0f}, in {percent(first['share_above_threshold'])}" in sizes
    )
    assert f"{percent(first['share_above_threshold_low'])} to" in sizes
    arms = next(item for item in said if item.startswith("Runs lost with exact against blended forward"))
    lost = tables["accuracy"].query("precision == 'fp16_rounded' and forward == 'blended'")
    number = int(lost[["num_diverged", "num_not_learned", "num_failed"]].sum().sum())
    assert f"against {number} of 24" in arms
    pairs = tables["pairs"].query("difference_sd > 0")
    apart = ((pairs["difference_low"] > 0) | (pairs["difference_high"] < 0)).sum()
    assert any(f"other minus beta = 0: {apart} of {len(pairs)} 95 % t intervals" in item for item in said)
    assert any(
        item.startswith("The same backward pass, repeated, gave the same bits in fp32") for item in said
    )


def test_no_gap_and_no_loss_are_said_as_such(tables_folder):
    tables = read_tables(tables_folder)
    zones = tables["zones"].assign(
        share_zero=1.0, num_inits_above=0, share_inits_above_high=0.25, num_draws_nonfinite=0
    )
    said = answers({"zones": zones}, ["zones"])
    assert said[0].startswith("Gradient: no. The Jacobian chosen at ties left it bit for bit the same")
    assert "fp32 at no beta (95 % upper bound on the share of inits: 25.0 %)" in said[1]
    fine = {f"num_{kind}": 0 for kind in ("diverged", "not_learned", "failed")}
    said = answers({"accuracy": tables["accuracy"].assign(**fine)}, ["train"])
    assert said[0].startswith("Trained network: at no precision were runs lost clearly more often")
    assert "fp32 0 of 24 against 0 of 24" in said[1]


def test_a_loss_that_beta_zero_shares_is_no_answer(tables_folder):
    accuracy = read_tables(tables_folder)["accuracy"].assign(num_diverged=1, num_not_learned=0)
    (sentence, *_) = answers({"accuracy": accuracy}, ["train"])
    assert "yes" not in sentence


def test_many_settings_are_counted_not_listed(tables_folder):
    zones = read_tables(tables_folder)["zones"]
    many = pd.concat(
        [zones.assign(dither=dither, cell=zones["cell"] + str(dither)) for dither in (0.0, 0.1, 0.2, 0.3)]
    )
    said = answers({"zones": many}, ["zones"])
    assert len(said) == 4
    assert said[-1] == "Table zones has 2 more settings than are told here."


def test_no_record_no_claim(study, tables_folder):
    assert answers({}, ["zones", "train"]) == [
        "No zones have been measured yet.",
        "No training has been run yet.",
    ]
    assert answers({}, ["drift"]) == ["There is no evidence yet: no trial of this study has a record."]


def test_equal_shares_are_not_given_a_bootstrap_interval(tables_folder):
    zones = read_tables(tables_folder)["zones"]
    zones = zones[(zones["precision"] == "fp32") & (zones["jacobian"] == "minimal")].copy()
    for name in ("share_above_threshold", "share_above_threshold_low", "share_above_threshold_high"):
        zones[name] = 1.0
    zones["num_inits_above"], zones["share_inits_above_low"] = 8, 0.631
    sentence = answers({"zones": zones}, ["zones"])[1]
    assert "100 % of batches" in sentence
    assert "at least 63.1 %" in sentence
    assert "100 % to" not in sentence


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0 %"), (1e-9, "below 0.1 %"), (0.5, "50.0 %"), (1 - 1e-9, "above 99.9 %"), (1.0, "100 %")],
)
def test_a_small_share_is_not_zero(share, words):
    assert percent(share) == words


def test_an_unfinished_study_says_so(partial_store, study, tmp_path):
    tables = write_tables(partial_store, study, tmp_path)
    done = (tables["trials"]["outcome"] != "missing").sum()
    soup = BeautifulSoup(page(study, tmp_path, tmp_path, records_link="."), "html.parser")
    assert f"{done} of {len(study.trials)} trials done" in soup.select_one("#answer").text
    zones = tables["zones"]
    assert not zones["share_above_threshold_low"].notna().any()
    if (zones.loc[zones["recipe"] == "relative", "num_inits_above"] > 0).any():
        assert "no interval below 5 inits" in soup.select_one("#answer").text
    assert soup.select_one("li.missing b").text == str(len(study.trials) - done)


def test_a_study_without_a_record_has_a_page(conftest_module, tmp_path):
    made = conftest_module
    only = made.Study(
        name="group/empty",
        question="Is there anything?",
        parts=(made.Part(name="z", cells=made.zone_cells()[:1], num_replicates=2),),
    )
    out = write_report(tmp_path / "results", only, tmp_path / "results" / "report.html")
    soup = BeautifulSoup(out.read_text(encoding="utf-8"), "html.parser")
    assert "0 of 2 trials done" in soup.select_one("#answer").text
    assert "No zones have been measured yet." in soup.select_one("#answer").text
    assert "nothing to draw yet" in soup.select_one("#figures").text
    assert "None was written down" in soup.select_one("#question").text


@pytest.mark.parametrize(
    ("lacks", "figure"),
    [({"beta": 0.0}, "difference"), ({"forward": Forward.BLENDED}, "forward_arm")],
)
def test_cells_whose_reference_has_no_record_are_drawn_without_their_difference(
    lacks, figure, conftest_module, tmp_path
):
    made = conftest_module
    cells = made.train_cells(precisions=(Precision.FP32,), num_epochs=2)
    only = made.Study(
        name="group/half", question="?", parts=(made.Part(name="t", cells=cells, num_replicates=2),)
    )

    def keep(trial):
        return all(getattr(trial.cell.reference, name) != value for name, value in lacks.items())

    store = made.fill(tmp_path, only, keep=keep)
    write_report(store.root, only, tmp_path / "report.html")
    drawn = {path.stem for path in (tmp_path / "figures" / "group" / "half").glob("*.png")}
    assert {"accuracy", "curves"} <= drawn
    assert figure not in drawn


def test_the_report_is_rebuilt_from_records(diverged, tmp_path):
    store, study = diverged
    out = write_report(store.root, study, store.root / "report.html")
    first = out.read_bytes()
    assert write_report(store.root, study, out).read_bytes() == first
    soup = BeautifulSoup(first, "html.parser")
    assert soup.select_one("li.diverged b").text == "6"
    for link in soup.select("#table-records a"):
        assert (store.root / link["href"]).exists()


def test_the_page_is_made_again_by_the_commands_it_names(study, tables_folder, figures_folder):
    text = page(
        study, tables_folder, figures_folder, records_link="..", results_root=Path("results/some where")
    )
    shown = BeautifulSoup(text, "html.parser").select_one("#reproduce pre").text
    assert shown.splitlines() == [
        "git checkout 0123456789abcdef0123456789abcdef01234567",
        *(
            f"tiebreak {verb} made_up 'results=results/some where'"
            for verb in ("study", "tabulate", "draw", "report")
        ),
    ]
    assert "local changes" not in text


def test_local_changes_are_said(conftest_module, tmp_path):
    made = conftest_module
    part = made.Part(name="z", cells=made.zone_cells(num_batches=1)[:1], num_replicates=2)
    only = made.Study(name="dirty", question="?", parts=(part,))
    store = made.RecordStore(tmp_path)
    for trial, device in zip(only.trials, ("one", "another"), strict=True):
        store.write(made.record(trial, dirty=True, device_name=device))
    out = write_report(tmp_path, only, tmp_path / "report.html", pool_devices=True)
    soup = BeautifulSoup(out.read_text(encoding="utf-8"), "html.parser")
    assert "measured with local changes" in soup.select_one("#reproduce").text
    assert "(with local changes)" in soup.select_one("#figures .meta").text
    assert (
        f"tiebreak report dirty results={tmp_path} --pool-devices" in soup.select_one("#reproduce pre").text
    )


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_in_a_browser_figures_load_and_tables_sort(text, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = Path(tmp_path) / "report.html"
    path.write_text(text, encoding="utf-8")
    flags = [
        "no-sandbox",
        "disable-gpu",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
    ]
    complaints, requests = [], []
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in flags])
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(path.as_uri())
        tab.evaluate("document.querySelectorAll('details').forEach((item) => { item.open = true; })")
        widths = tab.evaluate("Array.from(document.images, (image) => image.naturalWidth)")
        assert len(widths) == len(UNLABELLED)
        assert min(widths) > 0

        def column(name):
            script = """(name) => {
                const table = document.querySelector("#table-zones");
                const names = Array.from(table.tHead.rows[0].cells, (cell) => cell.innerText.trim());
                const at = names.indexOf(name);
                return Array.from(table.tBodies[0].rows, (row) => row.cells[at].dataset.sort);
            }"""
            return tab.evaluate(script, name)

        name = "share above threshold"
        header = tab.locator("#table-zones th").filter(has_text=re.compile(rf"^\s*{name}\s*$"))
        before = column(name)
        for state, sign in (("ascending", 1), ("descending", -1)):
            header.locator("button").click()
            assert header.get_attribute("aria-sort") == state
            shown = column(name)
            numbers = [sign * float(value) for value in shown if value != "nan"]
            assert numbers == sorted(numbers)
            assert shown[len(numbers) :] == ["nan"] * before.count("nan")
            assert sorted(shown) == sorted(before)
        assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        inside = """Array.from(document.querySelectorAll("table"), (table) => {
            const box = table.closest(".scroll").getBoundingClientRect();
            return box.left >= 0 && box.right <= document.documentElement.clientWidth;
        })"""
        assert all(tab.evaluate(inside))
        browser.close()
    assert complaints == []
    assert all(url.startswith(("file:", "data:")) for url in requests)
