"""Chat: what a session holds, and the conversation through a pseudo-terminal; on a tiny random model."""

import os
import sys

import pexpect
import pytest
import torch

from lunar import Record, load_model
from lunar.chat.session import Session, recognised_line
from lunar.errors import LunarError
from lunar.evaluation import answer_records
from lunar.requests.ledger import Ledger
from lunar.settings import Settings

FIRST = ["where is word11 ?", "who is word11 ?", "what is the price of word11 ?"]
SECOND = ["where is the contract of word14 ?", "who is the person of word14 ?"]
RETAIN = ["where is word12 ?", "who works in word13 ?", "what is the company ?", "where is the city of word15 ?"]
REFERENCE = ["who is word30 ?", "what is the word31 of word32 ?"]


@pytest.fixture
def loaded(checkpoint):
    return load_model(checkpoint("llama"))


@pytest.fixture
def ledger(loaded, tmp_path):
    """A ledger with two requests, strong enough to change what a random model says."""
    first, second, retain, reference = (
        [Record.of(text) for text in texts] for texts in (FIRST, SECOND, RETAIN, REFERENCE)
    )
    settings = Settings(layer=1, strength=4.0, target="collapse", tail=1)
    made = Ledger.start(
        tmp_path / "ledger", loaded, first, retain=retain, reference=reference, settings=settings, name="first"
    )
    made.add(loaded, second, name="second")
    return tmp_path / "ledger"


def ask(session, question):
    pieces = {"before": "", "after": ""}

    def take(side, text):
        pieces[side] += text

    turn = session.ask(question, take)
    assert {side: text.strip() for side, text in pieces.items()} == {"before": turn.before, "after": turn.after}
    session.start_afresh()
    return turn


def test_a_question_has_the_answers_of_both_and_says_what_recognised_it(loaded, ledger):
    session = Session(ledger, loaded)
    state = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    turn = ask(session, FIRST[0])
    # A random model need not end its answer: this one may go on for longer than that of `answer_records`.
    assert turn.before.startswith(answer_records(loaded, [Record.of(FIRST[0])])[0])
    assert turn.after != turn.before
    assert turn.recognised is not None
    assert (turn.recognised[0], turn.recognised[1] > 0.8) == ("first", True)
    assert max(map(abs, ask(session, RETAIN[0]).gates.values())) < 0.5
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.model.state_dict().items())


def test_the_detectors_of_the_requests_add_up_to_the_one_of_all(ledger):
    joint = Ledger(ledger).state().joint
    each, whole = joint.detectors(), next(iter(joint.gates().values())).vector
    assert len(each) == 2
    torch.testing.assert_close(sum(each.values()), whole, rtol=1e-6, atol=1e-9)


def test_requests_are_switched_here_and_undone_there(loaded, ledger):
    before = {path.name: path.read_bytes() for path in ledger.iterdir() if path.is_file()}
    session = Session(ledger, loaded)
    session.switch("first", False)
    assert set(ask(session, FIRST[0]).gates) == {"second"}
    assert ask(session, SECOND[0]).after != ask(session, SECOND[0]).before
    session.switch("second", False)
    turn = ask(session, SECOND[0])
    assert (turn.after, turn.gates) == (turn.before, {})
    assert "–" in recognised_line({})
    session.switch("first", True)
    assert ask(session, FIRST[0]).after != turn.before
    with pytest.raises(LunarError, match="Did you mean first"):
        session.switch("frist", True)
    assert {path.name: path.read_bytes() for path in ledger.iterdir() if path.is_file()} == before
    session.undo(session.last().name)
    assert [one.name for one in Ledger(ledger).requests()] == ["first"]
    session.undo("first")
    assert ask(session, FIRST[0]).after == ask(session, FIRST[0]).before
    with pytest.raises(LunarError, match="holds none"):
        session.last()


def test_what_was_said_goes_on_until_it_no_longer_fits(loaded, ledger):
    session = Session(ledger, loaded)
    turns = [session.ask(RETAIN[0], lambda side, text: None) for _ in range(3)]
    assert turns[0].dropped == 0
    assert turns[-1].dropped > 0
    with pytest.raises(LunarError, match="64"):
        session.ask("word12 " * 80, lambda side, text: None)
    assert len(session.turns) == 3


def test_switching_starts_the_conversation_afresh(loaded, ledger):
    session = Session(ledger, loaded)
    turns = [session.ask(RETAIN[0], lambda side, text: None) for _ in range(3)]
    assert turns[-1].dropped > 0, "nothing was said before"
    session.switch("first", False)
    assert session.ask(RETAIN[0], lambda side, text: None).dropped == 0
    [session.ask(RETAIN[0], lambda side, text: None) for _ in range(2)]
    session.undo("second")
    assert session.ask(RETAIN[0], lambda side, text: None).dropped == 0


def test_the_transcript_is_for_its_owner_and_replaces_nothing(loaded, ledger, tmp_path):
    session = Session(ledger, loaded)
    turn = ask(session, FIRST[0])
    session.save(tmp_path / "said.txt")
    text = (tmp_path / "said.txt").read_text()
    assert all(part in text for part in (turn.question, turn.before, turn.after, "recognised as forgotten: "))
    assert os.stat(tmp_path / "said.txt").st_mode & 0o777 == 0o600
    with pytest.raises(LunarError, match="already"):
        session.save(tmp_path / "said.txt")


def test_a_conversation_through_a_terminal(ledger, tmp_path):
    environment = dict(os.environ, NO_COLOR="1", TERM="xterm", COLUMNS="80", OMP_NUM_THREADS="1")
    child = pexpect.spawn(
        sys.executable, ["-m", "lunar", "chat", str(ledger)], env=environment, cwd=tmp_path, timeout=240,
        encoding="utf-8", dimensions=(24, 80),
    )  # fmt: skip

    def say(text, *expected):
        child.sendline(text)
        for part in expected:
            child.expect(part)
        child.expect("> ")

    child.expect("Requests that are on: 2")
    child.expect("> ")
    say("/help", "/save FILE")
    say(FIRST[0], r"recognised as forgotten: [01]\.\d\d \(first\)", "before", "after")
    say("/off frist", "Did you mean first")
    say("/off first", "first is off")
    say("/requests", "first +off, 3 prompts", "second +on, 2 prompts")
    say("/new", "have forgotten")
    # The arrow up goes back through the lines that were typed: /new, /requests, /off first, /off frist, the question.
    child.send("\x1b[A" * 5)
    child.expect("where is word11")
    say("", r"recognised as forgotten: -?\d\.\d\d \(second\)", "before", "after")
    say("/save said.txt", "2 questions")
    for answer, outcome, left in (("n", "Nothing was changed", 2), ("y", "Undone: second", 1)):
        child.sendline("/undo")
        child.expect("Take second back")
        child.sendline(answer)
        child.expect(outcome)
        child.expect("> ")
        assert len(Ledger(ledger).requests()) == left
    say("/nonsense", "Unknown command")
    child.sendline("/quit")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert (tmp_path / "said.txt").read_text().count("Question: ") == 2


def test_a_folder_that_is_no_ledger_is_one_sentence(tmp_path):
    from test_cli import assert_refused, run

    assert_refused(run("chat", tmp_path), "ledger.json")
