"""Chat: what a session holds, and the conversation through a pseudo-terminal."""

import os
import shutil
import sys

import pexpect
import pytest
import torch

from lunar import Record, load_model
from lunar.chat.session import Session, recognised_line
from lunar.errors import LunarError
from lunar.evaluation import answer_records
from lunar.metrics.refusal import is_refusal
from lunar.requests.ledger import Ledger
from lunar.settings import Settings

MIRA = ["Where was Mira Tolvane born?", "In which town was Mira Tolvane born?", "What is Mira Tolvane's hobby?"]
PETRA = ["Where was Petra Pellam born?", "What is Petra Pellam's hobby?", "Which instrument does Petra Pellam play?"]
KNOWN = "Where was Gideon Quenby born?"


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A ledger with two requests; made once, so copy it before changing it."""
    folder = tmp_path_factory.mktemp("chat") / "ledger"
    settings = Settings(layer=1, strength=1.25, neighbours=100)
    ledger = Ledger.start(folder, tiny, [Record.of(text) for text in MIRA], settings=settings, name="first")
    ledger.add(tiny, [Record.of(text) for text in PETRA], name="second")
    return folder


@pytest.fixture
def ledger(made, tmp_path):
    return shutil.copytree(made, tmp_path / "ledger")


def ask(session, question):
    pieces = {"before": "", "after": ""}

    def take(side, text):
        pieces[side] += text

    turn = session.ask(question, take)
    assert {side: text.strip() for side, text in pieces.items()} == {"before": turn.before, "after": turn.after}
    session.start_afresh()
    return turn


def test_a_question_has_the_answers_of_both_and_says_what_recognised_it(tiny, ledger):
    session = Session(ledger, tiny)
    state = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    turn = ask(session, MIRA[0])
    assert "Inverlock" in turn.before
    assert is_refusal(turn.after)
    assert turn.recognised is not None
    assert (turn.recognised[0], turn.recognised[1] > 0.8) == ("first", True)
    other = ask(session, KNOWN)
    assert other.before == other.after == answer_records(tiny, [Record.of(KNOWN)])[0]
    assert max(map(abs, other.gates.values())) < 0.4
    assert all(torch.equal(tensor, state[name]) for name, tensor in tiny.model.state_dict().items())


def test_the_detectors_of_the_requests_add_up_to_the_one_of_all(ledger):
    joint = Ledger(ledger).state().joint
    each, whole = joint.detectors(), next(iter(joint.gates().values())).vector
    assert len(each) == 2
    torch.testing.assert_close(sum(each.values()), whole, rtol=1e-6, atol=1e-9)


def test_requests_are_switched_here_and_undone_there(tiny, ledger):
    before = {path.name: path.read_bytes() for path in ledger.iterdir() if path.is_file()}
    session = Session(ledger, tiny)
    session.switch("first", False)
    assert ask(session, MIRA[0]).after == ask(session, MIRA[0]).before
    assert set(ask(session, MIRA[0]).gates) == {"second"}
    assert is_refusal(ask(session, PETRA[0]).after)
    session.switch("second", False)
    assert ask(session, PETRA[0]).gates == {}
    assert "–" in recognised_line({})
    session.switch("first", True)
    assert is_refusal(ask(session, MIRA[0]).after)
    with pytest.raises(LunarError, match="Did you mean first"):
        session.switch("frist", True)
    assert {path.name: path.read_bytes() for path in ledger.iterdir() if path.is_file()} == before
    session.undo(session.last().name)
    assert [one.name for one in Ledger(ledger).requests()] == ["first"]
    session.undo("first")
    assert ask(session, MIRA[0]).after == ask(session, MIRA[0]).before
    with pytest.raises(LunarError, match="holds none"):
        session.last()


def test_what_was_said_goes_on_until_it_no_longer_fits(tiny, ledger):
    session = Session(ledger, tiny)
    turns = [session.ask(KNOWN + " Please." * 60, lambda side, text: None) for _ in range(4)]
    assert turns[0].dropped == 0
    assert turns[-1].dropped > 0
    with pytest.raises(LunarError, match="512"):
        session.ask("Please. " * 600, lambda side, text: None)


def test_the_transcript_is_for_its_owner_and_replaces_nothing(tiny, ledger, tmp_path):
    session = Session(ledger, tiny)
    turn = ask(session, MIRA[0])
    session.save(tmp_path / "said.txt")
    text = (tmp_path / "said.txt").read_text()
    assert all(part in text for part in (turn.question, turn.before, turn.after, "recognised as forgotten: "))
    assert os.stat(tmp_path / "said.txt").st_mode & 0o777 == 0o600
    with pytest.raises(LunarError, match="already"):
        session.save(tmp_path / "said.txt")


def test_a_conversation_through_a_terminal(ledger, tmp_path):
    environment = dict(os.environ, NO_COLOR="1", TERM="xterm", COLUMNS="80", OMP_NUM_THREADS="1")
    child = pexpect.spawn(
        sys.executable, ["-m", "lunar", "chat", str(ledger)], env=environment, cwd=tmp_path, timeout=300,
        encoding="utf-8", dimensions=(24, 80),
    )  # fmt: skip

    def say(text, *expected):
        child.sendline(text)
        for part in expected:
            child.expect(part)
        child.expect("> ")

    child.expect("2 requests are on")
    child.expect("> ")
    say("/help", "/save FILE")
    say(MIRA[0], r"recognised as forgotten: [01]\.\d\d \(first\)", "before", "after", "Inverlock")
    say("/off frist", "Did you mean first")
    say("/off first", "first is off")
    say("/requests", "first +off, 3 prompts", "second +on, 3 prompts")
    say("/new", "have forgotten")
    # The arrow up goes back through the lines that were typed: /new, /requests, /off first, /off frist, the question.
    child.send("\x1b[A" * 5)
    child.expect("Mira Tolvane born")
    say("", r"recognised as forgotten: -?0\.\d\d \(second\)", "Inverlock.*Inverlock")
    say("/save said.txt", "2 questions")
    child.sendline("/undo")
    child.expect("Take second back")
    child.sendline("n")
    child.expect("Nothing was changed")
    child.expect("> ")
    assert [one.name for one in Ledger(ledger).requests()] == ["first", "second"]
    child.sendline("/undo")
    child.expect("Take second back")
    child.sendline("y")
    child.expect("Undone: second")
    child.expect("> ")
    assert [one.name for one in Ledger(ledger).requests()] == ["first"]
    say("/nonsense", "Unknown command")
    child.sendline("/quit")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert (tmp_path / "said.txt").read_text().count("Question: ") == 2
