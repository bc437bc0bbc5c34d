"""The page in the browser: what its controls do, on a tiny random model; and once with the page itself, in Chromium."""

import asyncio
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from test_chat import FIRST, RETAIN, SECOND, ledger, loaded  # noqa: F401 (the fixtures of the same conversation)

from lunar.chat.draft import candidates, questions_of, try_out
from lunar.chat.session import Session
from lunar.discovery import Discovered, Finding
from lunar.errors import LunarError
from lunar.records import Record
from lunar.requests.ledger import Ledger
from lunar.ui.actions import Actions
from lunar.ui.serving import HEADERS, HOST, free_socket, is_own
from lunar.ui.serving import _Guard as Guard

DRAFTED = "where is word17 ?\n\n  who is word17 ?\nwhere is word17 ?\n"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 120_000
"""Milliseconds; a busy machine takes long to start a browser and a page."""


@pytest.fixture(autouse=True)
def _few_neighbours(monkeypatch):
    """A part of the questions nearby, for time; a random model says something to each of them."""
    monkeypatch.setattr("lunar.chat.draft.MOST", 4)


@pytest.fixture
def actions(loaded, ledger):  # noqa: F811
    return Actions(Session(ledger, loaded))


def silent(stage, done, total):
    pass


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_answer_comes_in_pieces_and_says_what_recognised_it(actions):
    shown = list(actions.ask(f" {FIRST[0]} "))
    assert shown[0].recognised.endswith("(first)")
    assert (shown[0].before, shown[0].after) == ("", "")
    assert any(one.before and not one.after for one in shown)
    turn = actions.session.turns[-1]
    assert (shown[-1].before, shown[-1].after) == (turn.before, turn.after)
    assert turn.before != turn.after
    assert actions.history()[0][0] == FIRST[0]
    for question in ("  ", "word12 " * 80):
        with pytest.raises(LunarError):
            list(actions.ask(question))
    assert len(actions.history()) == 1


def test_whoever_stops_listening_leaves_the_model_as_it_was(actions, loaded):  # noqa: F811
    state = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    for number, _ in enumerate(listened := actions.ask(FIRST[0])):
        if number == 2:
            listened.close()
            break
    assert all((tensor == state[name]).all() for name, tensor in loaded.model.state_dict().items())


def test_requests_are_switched_here_and_undone_there(actions, ledger):  # noqa: F811
    before = contents(ledger)
    assert actions.on() == ["first", "second"]
    assert actions.switch(["second"]).startswith("1 of 2")
    assert list(actions.ask(FIRST[0]))[-1].recognised.endswith("(second)")
    assert actions.switch([]).startswith("0 of 2 requests are")
    last = list(actions.ask(FIRST[0]))[-1]
    assert last.before == last.after
    assert contents(ledger) == before
    with pytest.raises(LunarError, match="nothing was undone"):
        actions.undo("first")
    opened = Ledger(ledger)
    with opened.locked():
        opened.note("export adapter", {"files": {}})
    undone = actions.undo(actions.last())
    assert undone.startswith("Undone: second. 0 of 1 request is on. ")
    assert "when 1 adapter was exported: export again" in undone
    assert [one.name for one in Ledger(ledger).requests()] == actions.names() == ["first"]
    assert "holds no request" in actions.undo("first")
    with pytest.raises(LunarError, match="holds none"):
        actions.last()


def test_a_draft_writes_nothing_until_it_is_committed_and_then_does_what_was_shown(actions, ledger):  # noqa: F811
    before = contents(ledger)
    with pytest.raises(LunarError, match="press Try first"):
        actions.commit(DRAFTED, "ticket-3", silent)
    tried = actions.try_out(DRAFTED, silent)
    assert contents(ledger) == before
    assert [row[0] for row in tried.asked] == ["where is word17 ?", "who is word17 ?"]
    assert any(old != new for _, old, new in tried.asked)
    assert "Nothing was written" in tried.summary
    with pytest.raises(LunarError, match="were changed"):
        actions.commit("where is word18 ?", "ticket-3", silent)
    with pytest.raises(LunarError, match="must not name"):
        actions.commit(DRAFTED, "word17", silent)
    assert contents(ledger) == before
    assert "ticket-3" in actions.commit(DRAFTED, "ticket-3", silent)
    assert actions.on() == ["first", "second", "ticket-3"]
    for question, _, after in tried.asked:
        actions.start_afresh()
        # The conversation lets a random model go on for longer.
        assert list(actions.ask(question))[-1].after.startswith(after)
    assert "report.html" in {path.name for path in ledger.iterdir()}
    assert b"word17" not in b"".join(text for name, text in contents(ledger).items() if name.endswith(".json"))
    with pytest.raises(LunarError, match="press Try first"):
        actions.commit(DRAFTED, "ticket-4", silent)


def test_a_draft_is_tried_again_where_the_ledger_was_changed_meanwhile(actions, ledger):  # noqa: F811
    actions.try_out(DRAFTED, silent)
    Ledger(ledger).undo("second")
    with pytest.raises(LunarError, match="changed since"):
        actions.commit(DRAFTED, "ticket-3", silent)
    assert [one.name for one in Ledger(ledger).requests()] == ["first"]


def test_what_changes_nearby_is_counted_and_shown(loaded, ledger):  # noqa: F811
    # What is drafted itself is none of its neighbours; a question of the same words all but changes with it.
    drafted = questions_of(DRAFTED)
    nearby = [*drafted, Record.of("where is word17 !"), Record.of(RETAIN[0])]
    draft = try_out(ledger, loaded, drafted, nearby, progress=silent)
    asked = [record.prompt for record in draft.near.records]
    assert {"where is word17 !", RETAIN[0]} <= set(asked)
    assert not {record.prompt for record in drafted} & set(asked)
    assert draft.kept == pytest.approx(1 - len(draft.changed) / len(asked))
    assert {question for question, *_ in draft.changed} <= set(asked)
    assert all(before != after for _, before, after in draft.changed)
    with pytest.raises(LunarError, match="one per line"):
        questions_of(" \n")


def test_a_name_becomes_questions_and_their_neighbours(actions, loaded, monkeypatch):  # noqa: F811
    words = frozenset({"word1"})
    finding = Finding(SECOND[0], "word1", -0.1, words, words, 1, 9.0)
    found = Discovered("person", (finding,), (Record.of(RETAIN[0], "word2"),), 5)
    monkeypatch.setattr("lunar.chat.draft.discover", lambda loaded, name, progress: found)
    assert candidates(loaded, "Ada", silent) == ([SECOND[0]], [Record.of(RETAIN[0], "word2")])
    assert actions.candidates(" Ada ", silent) == SECOND[0]
    with pytest.raises(LunarError, match="A name was expected"):
        actions.candidates(" 7 ", silent)


def test_a_port_in_use_is_refused_or_passed_by():
    with free_socket(None) as first:
        assert first.getsockname()[0] == HOST
        port = first.getsockname()[1]
        with pytest.raises(LunarError, match=f"Port {port} was expected to be free"), free_socket(port):
            pass
        with free_socket(None) as second:
            assert second.getsockname()[1] > port


def test_only_the_pages_own_requests_are_answered():
    assert is_own("127.0.0.1:7860", None)
    assert is_own("localhost:7860", "http://localhost:7860")
    assert not is_own("127.0.0.1:7860", "http://127.0.0.1:8000")
    assert not is_own("127.0.0.1:7860", "https://example.org")
    assert not is_own("example.org:7860", "http://example.org:7860")
    assert not is_own("127.0.0.1:7860", "null")
    assert not is_own(None, None)


def test_what_is_missing_or_taken_is_one_sentence(ledger, tmp_path, monkeypatch):  # noqa: F811
    from test_cli import assert_refused, run

    assert_refused(run("ui", tmp_path), "ledger.json")
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("lunar.ui.find_spec", lambda name: object())
        assert_refused(run("ui", ledger, "--port", str(port)), f"Port {port}")
    monkeypatch.setattr("lunar.ui.find_spec", lambda name: None)
    assert_refused(run("ui", ledger), "pip install 'lunar-unlearn[ui]'")


def test_the_guard_answers_the_page_alone_and_adds_its_headers():
    async def inner(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"public")]})
        await send({"type": "http.response.body", "body": b""})

    async def ask(path, *headers):
        sent = []

        async def send(message):
            sent.append(message)

        await Guard(inner)({"type": "http", "path": path, "headers": headers}, None, send)
        return sent[0]["status"], dict(sent[0]["headers"])

    pytest.importorskip("starlette", reason="Gradio is not installed: pip install 'lunar-unlearn[ui]'")
    own = (b"host", b"127.0.0.1:7860")
    status, headers = asyncio.run(ask("/", own))
    assert status == 200
    assert headers == {name.lower().encode(): value.encode() for name, value in HEADERS.items()}
    assert asyncio.run(ask("/gradio_api/openapi.json", own))[0] == 404
    assert asyncio.run(ask("/", (b"host", b"example.org")))[0] == 403
    assert asyncio.run(ask("/", own, (b"origin", b"https://example.org")))[0] == 403


@pytest.fixture
def address(ledger, tmp_path):  # noqa: F811
    """Where the page of the ledger is; it runs as a user would have it, in a process of its own."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("Gradio is not installed: pip install 'lunar-unlearn[ui]'")
    environment = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
    process = subprocess.Popen(
        [sys.executable, "-m", "lunar", "ui", str(ledger), "--no-browser"], env=environment, cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    said = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", said)
    yield found and found.group()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) in (0, 130)
    process.stdout.close()


@pytest.fixture
def tab(address):
    """The page in a browser; at the end, nothing was complained of and nothing asked for elsewhere."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    complaints, requests = [], []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page()
        opened.set_default_timeout(PATIENCE)
        opened.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("request", lambda request: requests.append(request.url))
        answer = opened.goto(address)
        assert {name.lower() for name in HEADERS} <= set(answer.headers)
        yield opened
        browser.close()
    outside = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert not outside
    assert not complaints


def test_the_page_asks_toggles_drafts_and_undoes(tab, ledger):  # noqa: F811
    def shows(selector, text):
        tab.wait_for_function(
            "([one, text]) => document.querySelector(one)?.innerText.includes(text)", arg=[selector, text]
        )

    def press(name):
        tab.get_by_role("button", name=name, exact=True).click()

    tab.get_by_label("Question", exact=True).fill(FIRST[0])
    press("Ask")
    tab.wait_for_function("document.querySelector('#after textarea').value.length > 0")
    assert re.search(r"[01]\.\d\d \(first\)", tab.get_by_label("How far the question is recognised").input_value())
    assert tab.input_value("#before textarea")

    tab.get_by_role("tab", name="Requests").click()
    shows("#requests-status", "2 of 2")
    tab.get_by_label("first", exact=True).uncheck()
    shows("#requests-status", "1 of 2")
    assert len(Ledger(ledger).requests()) == 2

    tab.get_by_role("tab", name="Draft").click()
    tab.get_by_label("Questions to forget").fill("where is word17 ?\nwho is word17 ?")
    press("Try")
    shows("#draft-status", "Nothing was written")
    assert len(Ledger(ledger).requests()) == 2
    tab.get_by_label("Name of the request").fill("word17")
    press("Commit")
    tab.get_by_text("must not name what is to be forgotten").wait_for()
    tab.get_by_label("Name of the request").fill("ticket-3")
    press("Commit")
    shows("#draft-status", "Added to the ledger: ticket-3")
    assert [one.name for one in Ledger(ledger).requests()] == ["first", "second", "ticket-3"]

    tab.get_by_role("tab", name="Requests").click()
    press("Undo the last request for good")
    shows("#sure", "ticket-3")
    press("No, leave it")
    tab.locator("#sure").wait_for(state="hidden")
    assert len(Ledger(ledger).requests()) == 3
    press("Undo the last request for good")
    press("Yes, undo it")
    shows("#requests-status", "Undone: ticket-3")
    assert [one.name for one in Ledger(ledger).requests()] == ["first", "second"]
