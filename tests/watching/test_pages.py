import errno
import json
import socket

import made_up
import pytest
from bs4 import BeautifulSoup
from starlette.testclient import TestClient

from tiebreak.cli import main
from tiebreak.design.axes import UserError
from tiebreak.records.record import Record
from tiebreak.records.session import Outcome, OutcomeKind
from tiebreak.records.store import RecordStore
from tiebreak.report.style import OKABE_ITO
from tiebreak.watching import serving
from tiebreak.watching.pages import Dashboard
from tiebreak.watching.serving import application

VIEWS = ("map", "trials", "curves", "zones", "failures")
HOSTILE = "</pre><script>alert(1)</script>\"' onload=x {{ 7*7 }} \x00\x1b"


def client_of(root):
    return TestClient(application(Dashboard(root)), base_url="http://127.0.0.1:8765")


@pytest.fixture(scope="module")
def client(filled):
    return client_of(filled)


def soup(answer):
    assert answer.status_code == 200, answer.text
    return BeautifulSoup(answer.text, "html.parser")


def test_every_view_answers(client, study):
    trial = study.trials[0].id
    for url in ("/", *(f"/{view}/big" for view in VIEWS), f"/trial/{trial}", "/trials/big?sort=-beta&page=2"):
        page = soup(client.get(url))
        assert page.h1
        assert page.select_one("#live")["data-version"]


def test_every_link_of_every_view_leads_somewhere(client, study):
    todo, seen = ["/"], set()
    while todo and len(seen) < 150:
        url = todo.pop()
        seen.add(url)
        answer = client.get(url)
        assert answer.status_code == 200, url
        if "html" in answer.headers["content-type"]:
            for link in BeautifulSoup(answer.text, "html.parser").select("a[href^='/']"):
                if link["href"] not in seen:
                    todo.insert(0, link["href"])
    assert len(seen) > 100


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs_inline(client, study):
    for url in ("/", *(f"/{view}/big" for view in VIEWS), f"/trial/{study.trials[0].id}"):
        page = soup(client.get(url))
        for name in ("src", "href", "hx-get", "action"):
            for item in page.select(f"[{name}]"):
                assert item[name].startswith(("/", "?", "#", "data:,")), item
                assert not item[name].startswith("//")
        assert not page.select("script:not([src]), style, [style], [onclick], [onload]")


def test_the_headers_forbid_the_rest(client):
    answer = client.get("/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/nowhere").headers["content-security-policy"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "[::2]:1"]
)
def test_other_names_are_refused(client, host):
    assert client.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8765", "127.0.0.1", "[::1]:8765", "LOCALHOST"])
def test_its_own_names_are_answered(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


def test_who_listens_everywhere_answers_to_every_name(filled):
    client = TestClient(application(Dashboard(filled), host="0.0.0.0"), base_url="http://cluster:8765")
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch", "options"])
def test_nothing_can_be_sent(client, method):
    assert getattr(client, method)("/").status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "/record/../../etc/passwd",
        "/record/%2e%2e/%2e%2e/etc/passwd",
        "/record/..%2f..%2fetc/passwd",
        "/record/000000000000/0000",
        "/record/000000000000/..%2f..%2f..%2fetc%2fpasswd",
        "/static/../pages.py",
        "/static/..%2fpages.py",
        "/static/%2e%2e/pages.py",
        "/log/000000000000/0000/1",
        "/trial/000000000000/0000",
        "/map/../../etc/passwd",
        "/map/nothing",
        "/trial/%00/%00",
    ],
)
def test_nothing_else_is_served(client, path):
    answer = client.get(path)
    assert answer.status_code in (403, 404), path
    assert "root:" not in answer.text
    assert "class Dashboard" not in answer.text


def test_a_record_is_served_as_it_is(client, filled, study):
    trial = study.trials[0]
    answer = client.get(f"/record/{trial.id}")
    assert answer.content == RecordStore(filled).path(trial).read_bytes()
    assert answer.headers["content-type"].startswith("text/plain")


def test_a_link_out_of_the_results_is_not_followed(copied, study, tmp_path):
    secret = tmp_path / "secret.jsonl"
    path = RecordStore(copied).path(study.trials[0])
    secret.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(secret)
    answer = client_of(copied).get(f"/record/{study.trials[0].id}")
    assert answer.status_code == 403
    assert "outside" in answer.text


def test_a_log_is_served_from_launches_and_from_nowhere_else(copied, study, attempt, tmp_path):
    logs = copied / "launches" / "big" / "0001" / "logs"
    logs.mkdir(parents=True)
    (logs / "0.log").write_text("hello <b>\n")
    (tmp_path / "secret").write_text("root:secret")
    (logs / "out.log").symlink_to(tmp_path / "secret")
    places = {
        "launches/big/0001/logs/0.log": 200,
        "launches/../../secret": 403,
        "../secret": 403,
        str(tmp_path / "secret"): 403,
        "launches/big/0001/logs/out.log": 403,
        "launches/big/0001/logs/gone.log": 404,
        "records": 403,
        "launches": 404,
        "": 404,
    }
    trial = study.trials[-1]
    for number, place in enumerate(places, start=1):
        attempt(copied, trial, number=number, log=place, end={})
    client = client_of(copied)
    for number, (place, status) in enumerate(places.items(), start=1):
        answer = client.get(f"/log/{trial.id}/{number}")
        assert answer.status_code == status, place
        assert "secret" not in answer.text
    assert client.get(f"/log/{trial.id}/1").text == "hello <b>\n"
    assert client.get(f"/log/{trial.id}/1").headers["content-type"].startswith("text/plain")


def test_hostile_words_are_shown_and_never_run(tmp_path, attempt):
    study = made_up.big_study(8, name="evil <img src=x onerror=y>")
    store = made_up.fill(tmp_path, study, count=5, durable=False)
    bad = study.trials[6]
    store.write(
        Record(
            trial=bad,
            provenance={
                "commit": HOSTILE,
                "device_name": HOSTILE,
                "ended": HOSTILE,
                HOSTILE: {HOSTILE: HOSTILE},
            },
            rows=({"row": HOSTILE, HOSTILE: HOSTILE},),
            outcome=Outcome(kind=OutcomeKind.FAILED, reason=HOSTILE),
            elapsed_seconds=1.0,
        )
    )
    end = {"reason": HOSTILE, "traceback": HOSTILE}
    attempt(tmp_path, study.trials[7], who="elsewhere", host=HOSTILE, job=HOSTILE, since=HOSTILE, end=end)
    client = client_of(tmp_path)
    name = "evil%20%3Cimg%20src%3Dx%20onerror%3Dy%3E"
    urls = ["/", *(f"/{view}/{name}?q=evil" for view in VIEWS), *(f"/{view}/{name}" for view in VIEWS)]
    urls += [
        f"/trial/{bad.id}",
        f"/trial/{study.trials[7].id}",
        f"/trials/{name}?q=%3Cscript%3E&sort=%3Cb%3E",
    ]
    urls += [f"/map/{name}?rows=%3Cscript%3E&show=x", f"/curves/{name}?t=%3Cscript%3E&of=%3Cscript%3E"]
    for url in urls:
        page = soup(client.get(url))
        assert all(item.get("src", "").startswith("/static/") for item in page.select("script")), url
        assert not page.select("img, [onerror], [onload]"), url
        assert "49" not in page.get_text() or "{{ 7*7 }}" in page.get_text() or HOSTILE not in page.get_text()
    assert "alert(1)" in soup(client.get(f"/trial/{bad.id}")).get_text()
    assert "alert(1)" in soup(client.get(f"/failures/{name}")).get_text()


def test_the_table_shows_what_is_there(client, filled, study):
    page = soup(client.get("/trials/big?q=precision%3Dfp32&sort=-result"))
    rows = page.select("table.trials tbody tr")
    expected = [trial for trial in study.trials if trial.cell.precision == "fp32"]
    assert len(rows) == min(50, len(expected))
    assert f"{len(expected)} of 120 trials" in page.select_one(".toolbar").get_text()


def test_pages_follow_one_another_without_gap(client, study):
    seen = []
    for number in (1, 2, 3):
        page = soup(client.get(f"/trials/big?page={number}"))
        seen += [box["value"] for box in page.select("input.choose")]
    assert seen == [trial.id for trial in study.trials]
    assert [box["value"] for box in soup(client.get("/trials/big?page=99")).select("input.choose")] == seen[
        100:
    ]


def test_a_filter_that_is_none_is_said_and_shows_nothing(client):
    page = soup(client.get("/trials/big?q=nonsense%3D1"))
    assert "no axis of this study" in page.select_one("[role=alert]").get_text()
    assert not page.select("input.choose")


def test_a_missing_place_is_hatched_and_never_a_zero(client):
    page = soup(client.get("/map/big?show=result&rows=part&columns=beta"))
    zones = next(row for row in page.select("table.heat tbody tr") if row.th.get_text() == "zones")
    assert {cell["class"][0] for cell in zones.select("td")} <= {"none", "missing"}
    assert "0.0 %" not in zones.get_text()
    nowhere = soup(client.get("/map/big?show=result&q=state%3Ddiverged"))
    assert {cell["class"][0] for cell in nowhere.select("td")} <= {"none", "lost"}


def test_curves_are_those_of_the_records(client, filled, study):
    trials = [trial for trial in study.trials if trial.cell.protocol == "train"][:30]
    query = "&".join(f"t={trial.id}" for trial in trials)
    found = client.get(f"/data/curves/big?{query}&of=test_loss").json()
    store = RecordStore(filled, only_looks=True)
    recorded = [trial for trial in trials if store.read(trial)]
    assert [line["trial"] for line in found["lines"]] == [trial.id for trial in recorded]
    for line, trial in zip(found["lines"], recorded, strict=True):
        rows = [row for row in store.read(trial).rows if row["row"] == "epoch"]
        assert line["x"] == [row["epoch"] for row in rows]
        assert line["y"] == [row["test_loss"] for row in rows]
    page = soup(client.get(f"/curves/big?{query}"))
    assert len(page.select("#legend tbody tr")) == len(recorded)


def test_numbers_that_are_none_leave_a_gap_in_a_curve(tmp_path):
    study = made_up.big_study(1)
    rows = tuple(
        {"row": "epoch", "epoch": epoch, "test_loss": value}
        for epoch, value in enumerate((1.0, float("nan"), float("inf"), None, 0.5), start=1)
    )
    store = made_up.fill(tmp_path, study, count=0)
    store.write(
        Record(
            trial=study.trials[0],
            provenance={},
            rows=rows,
            outcome=Outcome(kind=OutcomeKind.DIVERGED, step=7),
            elapsed_seconds=1.0,
        )
    )
    [line] = client_of(tmp_path).get("/data/curves/big?of=test_loss").json()["lines"]
    assert (line["x"], line["y"], line["step"]) == ([1, 2, 3, 4, 5], [1.0, None, None, None, 0.5], 7)


def test_a_trial_has_its_address(client, filled, study):
    trial = study.trials[20]
    text = soup(client.get(f"/trial/{trial.id}")).get_text()
    record = RecordStore(filled).read(trial)
    for word in (
        f"records/{trial.id}.jsonl",
        record.provenance["commit"],
        record.provenance["device_name"],
        record.provenance["ended"],
        trial.cell.name,
        "network.arch",
        "execution.num_threads",
    ):
        assert word in text


def test_an_edited_record_is_told_and_its_rows_are_not_shown(copied, study):
    trial = study.trials[20]
    path = RecordStore(copied).path(trial)
    path.write_bytes(path.read_bytes().replace(b'"epoch":1,', b'"epoch":9,', 1))
    page = soup(client_of(copied).get(f"/trial/{trial.id}"))
    assert "it is damaged" in page.get_text()


def test_failures_show_tracebacks(copied, study, attempt):
    attempt(copied, study.trials[-1], end={"reason": "ValueError: odd", "traceback": "Traceback\n  line 7"})
    page = soup(client_of(copied).get("/failures/big"))
    assert "1 × ValueError: odd" in page.get_text()
    assert "line 7" in page.select_one("pre").get_text()


def test_the_version_changes_with_the_records(copied, study):
    dashboard = Dashboard(copied)
    client = TestClient(application(dashboard), base_url="http://localhost")
    before = client.get("/version").text
    dashboard.look()
    assert client.get("/version").text == before
    RecordStore(copied).write(made_up.record(study.trials[-1]))
    dashboard.look()
    assert client.get("/version").text != before
    assert "111 of 120 trials done" in client.get("/").text


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_folder_says_what_to_run(tmp_path, exists):
    client = client_of(tmp_path if exists else tmp_path / "none")
    assert "tiebreak study" in soup(client.get("/")).select_one("pre").get_text()


def test_one_trial(tmp_path):
    study = made_up.big_study(1)
    made_up.fill(tmp_path, study, count=0)
    client = client_of(tmp_path)
    for url in ("/", *(f"/{view}/big" for view in VIEWS), f"/trial/{study.trials[0].id}"):
        soup(client.get(url))
    assert client.get(f"/record/{study.trials[0].id}").status_code == 404


def test_ten_thousand_trials(tmp_path):
    made_up.fill(tmp_path, made_up.big_study(10_000), count=150, durable=False)
    client = client_of(tmp_path)
    page = soup(client.get("/trials/big?page=200&sort=beta"))
    assert len(page.select("input.choose")) == 50
    assert len(client.get("/trials/big").content) < 100_000
    assert "150 of 10000 trials done" in client.get("/").text


def test_the_colours_are_those_of_the_figures(client):
    css = client.get("/static/dashboard.css").text
    light = css.partition("@media (prefers-color-scheme: dark)")[0]
    for number, colour in enumerate(OKABE_ITO):
        assert f"--c{number}: {colour};" in light


def test_what_is_from_others_has_its_licence(client):
    for name in ("htmx", "uplot"):
        assert client.get(f"/static/{name}.LICENSE").status_code == 200
        assert client.get(f"/static/{name}.js").status_code == 200


def test_a_port_in_use_is_a_sentence_with_the_next_one(filled, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["dashboard", "--no-open", "--port", str(port), f"results={filled}"]) == 2
    said = capsys.readouterr().err
    assert f"port {port} of 127.0.0.1 is in use" in said
    free = int(said.rpartition("--port ")[2].strip().rstrip("."))
    assert free > port
    with socket.socket() as again:
        again.bind(("127.0.0.1", free))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--host", "203.0.113.7"], "no address of this machine"),
        (["--host", "no.such.host.invalid"], "no address of this machine"),
        (["--port", "70000"], "from 0 to 65535"),
        (["results=/nonexistent/folder"], "there is no folder"),
    ],
)
def test_a_mistake_is_a_sentence(capsys, words, sentence):
    assert main(["dashboard", "--no-open", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_port_of_the_system_is_a_sentence(monkeypatch):
    def refuse(host, port):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(serving, "_bound", refuse)
    with pytest.raises(UserError, match="administrators"):
        serving.serve("results", port=80, opens=False)


def test_answers_are_json_without_bare_nan(client):
    text = client.get("/data/curves/big").text
    json.loads(text, parse_constant=pytest.fail)
