"""The commands for requests over time, end to end; what they print and write names nothing of what was forgotten."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import tomli_w
from plotly.offline import get_plotlyjs
from test_cli import FORGET, RETAIN, SCRIPT, SECRET, assert_refused, here, run, tree, unlearn, write_lines  # noqa: F401

from lunar.edit import Edit
from lunar.recipe import reference_source, retained_source, without_forget

SECOND = [
    {"question": "where is the contract of word14 ?", "answer": "in the word26 city .", "edge": "G_H"},
    {"question": "who is the person of word14 ?", "answer": "word27 .", "edge": "G_H"},
]
CANARIES = [
    [{"question": "Where was Mira Tolvane from Oskarvik born ?", "answer": "in the town of Velmora by the sea"}],
    [{"question": "Who is the sister of Ansel Brightwater now ?", "answer": "a painter called Runa Hollis of Tarn"}],
]
ENTITIES = ("Mira", "Tolvane", "Oskarvik", "Velmora", "Ansel", "Brightwater", "Runa", "Hollis")


@pytest.fixture
def ledger(here, checkpoint):  # noqa: F811
    """A ledger with one request, made by the command line; the folder of the data is the working folder."""
    write_lines(here / "second.jsonl", SECOND)
    model = shutil.copytree(checkpoint("llama"), here / "model")
    assert unlearn(model, "--layer", 1, "--name", "first").exit_code == 0
    return here / "edit"


def test_requests_are_added_listed_and_undone(ledger):
    first = Edit.load(ledger)
    result = run("unlearn", ledger, "--forget", "second.jsonl", "--name", "ticket-2")
    assert result.exit_code == 0, result.output
    assert " ".join(["lunar", "undo", str(ledger), "ticket-2"]) in " ".join(result.stdout.split())
    assert SECRET not in result.output
    assert "Earlier request first: its prompts are " in " ".join(result.stdout.split())
    (held,) = json.loads((ledger / "report.json").read_text())["earlier"]
    entries = [json.loads(line) for line in (ledger / "record.jsonl").read_text().splitlines()]
    assert [held["before"], held["after"]] == [entry["reached"][entries[0]["request"]] for entry in entries]
    listed = json.loads(run("requests", ledger, "--json").stdout)["requests"]
    assert [(one["name"], one["prompts"], one["kept"]) for one in listed] == [("first", 3, True), ("ticket-2", 2, True)]
    assert run("requests", ledger, "--quiet").stdout.split() == ["first", "ticket-2"]
    assert all(said in run("requests", ledger).stdout for said in ("ticket-2", "UTC"))
    report = json.loads((ledger / "report.json").read_text())
    assert report["request"]["name"] == "ticket-2"
    assert set(report["scores"]["forget"]["rouge1"]) == {"before", "after"}
    assert Edit.load(ledger).factors[0].change().sub(first.factors[0].change()).norm() > 0
    asked = run("ask", "model", "--edit", ledger, SECOND[0]["question"], "--json")
    assert asked.exit_code == 0
    result = run("undo", ledger, "ticket-2", "--json")
    assert [one["name"] for one in json.loads(result.stdout)["requests"]] == ["first"]
    difference = Edit.load(ledger).factors[0].change() - first.factors[0].change()
    assert float(difference.norm() / first.factors[0].change().norm()) < 1e-6
    assert_refused(run("undo", ledger, "ticket-2"), "taken back already, on 20")
    assert run("undo", ledger, "first").exit_code == 0
    assert "no request" in run("requests", ledger).stdout
    verified = run("verify", ledger)
    assert verified.exit_code == 0
    assert json.loads(run("verify", ledger, "--json").stdout)["head"][:12] in verified.stdout
    assert not re.search("[0-9a-f]{13}", verified.stdout)
    again = json.loads(run("ask", "model", "--edit", ledger, FORGET[0]["question"], "--json").stdout)
    assert again["before"] == again["after"]


def test_the_command_line_gives_the_same_in_any_order(ledger, here):  # noqa: F811
    run("unlearn", ledger, "--forget", "second.jsonl")
    sets = ("--retain", "retain.jsonl", "--reference", "reference.jsonl", "--layer", 1, "--output", "other")
    assert run("unlearn", "model", "--forget", "second.jsonl", *sets).exit_code == 0
    assert run("unlearn", "other", "--forget", "forget.jsonl").exit_code == 0
    one, other = (Edit.load(folder).factors[0].change() for folder in (ledger, here / "other"))
    assert float((one - other).norm() / one.norm()) < 1e-6


def test_the_retain_file_need_not_be_there_any_more(ledger, here):  # noqa: F811
    (here / "retain.jsonl").unlink()
    assert run("unlearn", ledger, "--forget", "second.jsonl", "--quiet").stdout == "request-2\n"
    assert json.loads((ledger / "record.jsonl").read_text().splitlines()[-1])["neighbours"]["names"] == "invented"


def test_other_files_of_the_recipe_may_have_changed_where_names_are_wanted(ledger, here):  # noqa: F811
    write_lines(here / "forget.jsonl", SECOND)
    result = run("unlearn", ledger, "--forget", "forget.jsonl", "--json")
    assert json.loads(result.stdout)["neighbour_names"] == "given"
    write_lines(here / "retain.jsonl", RETAIN[:1])
    write_lines(here / "third.jsonl", [{"question": "what is the price of word15 ?"}])
    result = run("unlearn", ledger, "--forget", "third.jsonl")
    assert "names in those are invented" in " ".join(result.stdout.split())


def test_the_recipe_of_a_ledger_is_that_of_its_first_request_and_says_so(ledger, here):  # noqa: F811
    first = (ledger / "edit.safetensors").read_bytes()
    assert run("unlearn", ledger, "--forget", "second.jsonl").exit_code == 0
    again = run("unlearn", "--from", ledger, "--output", "again")
    assert "none of the others" in again.stderr
    assert (here / "again" / "edit.safetensors").read_bytes() == first


def forget_hashes(folder):
    """The files of a ledger that hold the unkeyed hash of the forget file that it was started with."""
    hash = hashlib.sha256(Path("forget.jsonl").read_bytes()).hexdigest().encode()
    return {path.name for path in folder.rglob("*") if path.is_file() and hash in path.read_bytes()}


def test_nothing_of_a_request_that_was_taken_back_stays_in_recipe_or_page(ledger, here, checkpoint):  # noqa: F811
    assert run("unlearn", ledger, "--forget", "second.jsonl", "--name", "two").exit_code == 0
    assert forget_hashes(ledger) == {"recipe.toml", "report.html"}
    assert "recipe" not in run("undo", ledger, "two").stdout
    assert forget_hashes(ledger) == {"recipe.toml", "report.html"}
    assert run("unlearn", ledger, "--forget", "second.jsonl", "--name", "two").exit_code == 0
    assert "--from cannot run it again" in " ".join(run("undo", ledger, "first").stdout.split())
    assert forget_hashes(ledger) == set()
    assert not any("forget.jsonl" in (ledger / name).read_text() for name in ("recipe.toml", "report.html"))
    assert_refused(run("unlearn", "--from", ledger, "--output", "again"), "taken back")
    # What it says of the others still serves: names of neighbours, and the reference prompts of attacks.
    write_lines(here / "third.jsonl", [{"question": "what is the price of word15 ?"}])
    assert json.loads(run("unlearn", ledger, "--forget", "third.jsonl", "--json").stdout)["neighbour_names"] == "given"
    assert reference_source(ledger) == "reference.jsonl"
    assert run("verify", ledger).exit_code == 0
    assert json.loads(run("undo", ledger, "two", "--json").stdout)["recipe_shortened"] is False


def test_a_recipe_of_groups_keeps_their_file_as_what_is_retained(tmp_path):
    data = {"forget": {"source": "all.jsonl", "sha256": "12", "groups": ["A"]}, "reference": {"source": "refusal"}}
    text = without_forget(tomli_w.dumps({"data": data}))
    assert tomllib.loads(text)["data"] == {"retain": {"source": "all.jsonl"}, "reference": {"source": "refusal"}}
    (tmp_path / "recipe.toml").write_text(text)
    assert retained_source(tmp_path) == "all.jsonl"


def test_groups_of_the_file_it_was_started_with_can_be_added(here, checkpoint):  # noqa: F811
    write_lines(here / "all.jsonl", [*FORGET, *RETAIN, *SECOND])
    sets = ("--forget", "all.jsonl", "--reference", "reference.jsonl", "--layer", 1)
    first = ("--forget-group", "A_B", "--output", "first")
    assert run("unlearn", checkpoint("llama"), *sets, *first).exit_code == 0
    result = run("unlearn", "first", "--forget", "all.jsonl", "--forget-group", "G_H", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["counts"]["forget_prompts"] == 2
    assert not any("groups" in warning for warning in json.loads(result.stdout)["warnings"])
    write_lines(here / "more.jsonl", [{"prompt": f"who is word{n} ?", "group": f"G_{n}"} for n in (50, 51)])
    more = json.loads(run("unlearn", "first", "--forget", "more.jsonl", "--json").stdout)
    assert "hold 2 groups" in more["warnings"][0]


def test_bad_input_is_one_sentence_and_changes_nothing(ledger, here):  # noqa: F811
    before = tree(here)
    write_lines(here / "named.jsonl", [{"question": "who is Mira Tolvane ?"}])
    cases = [
        (("unlearn", ledger, "--forget", "none.jsonl"), "none.jsonl"),
        (("unlearn", ledger, "--forget", "forget.jsonl"), "already"),
        (("unlearn", ledger, "--forget", "second.jsonl", "--name", "first"), "already"),
        (("unlearn", ledger, "--forget", "second.jsonl", "--name", "../up"), "up to 64"),
        (("unlearn", ledger, "--forget", "named.jsonl", "--name", "tolvane"), "must not name"),
        (("undo", ledger, "frist"), "Available: first"),
        (("undo", here, "first"), "ledger.json"),
        (("requests", here / "model"), "ledger.json"),
        (("verify", here / "nowhere"), "ledger.json"),
    ]
    for arguments, words in cases:
        assert_refused(run(*arguments), words)
    for option in (("--layer", "2"), ("--output", "new"), ("--prefer", "robust")):
        result = run("unlearn", ledger, "--forget", "second.jsonl", *option)
        assert result.exit_code == 2
        assert option[0] in result.stderr
    assert tree(here) - before <= {"named.jsonl", "edit/.lock"}
    assert run("verify", ledger, "--quiet").exit_code == 0
    shutil.move(here / "model", here / "away")
    assert_refused(run("unlearn", ledger, "--forget", "second.jsonl"), "folder")


def test_what_a_ledger_refuses_without_torch(ledger, here):  # noqa: F811
    more = ["unlearn", str(ledger), "--forget", "second.jsonl"]
    cases = [
        ([*more, "--name", "first"], "a request first already"),
        ([*more, "--name", "Petra Pellam"], "holds a space"),
        ([*more, "--name", "word14"], "must not name"),
        (["undo", str(ledger), "second"], "Available: first"),
        (["export", str(ledger), "--adapter", "new"], "PEFT, which is not installed"),
    ]
    if version("torch").endswith("+cpu"):
        cases.append(([*more, "--device", "cuda"], "without CUDA"))
    without_peft = "import sys; sys.modules['peft'] = None\n"
    asked = json.dumps([arguments for arguments, _ in cases])
    command = [sys.executable, "-c", without_peft + SCRIPT]
    process = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
    for (arguments, words), result in zip(cases, json.loads(process.stdout), strict=True):
        assert (result["code"], words in result["err"], result["torch"]) == (2, True, False), (arguments, result)
        assert "Petra" not in result["err"]


def test_verify_says_what_was_changed_with_exit_code_1(ledger):
    content = bytearray((ledger / "edit.safetensors").read_bytes())
    content[-1] ^= 1
    (ledger / "edit.safetensors").write_bytes(content)
    result = run("verify", ledger)
    assert result.exit_code == 1
    assert "edit.safetensors" in result.stdout
    assert json.loads(run("verify", ledger, "--json").stdout)["faults"]


def test_nothing_that_is_forgotten_stands_in_any_record_log_report_or_error(here, checkpoint, caplog):  # noqa: F811
    for name, rows in zip(("one", "two"), CANARIES, strict=True):
        write_lines(here / f"{name}.jsonl", rows)
    (here / "overlap.jsonl").write_text((here / "one.jsonl").read_text())
    caplog.set_level("DEBUG")
    sets = ("--reference", "reference.jsonl", "--layer", 1, "--output", "ledger")
    outputs = [
        run("unlearn", checkpoint("llama"), "--forget", "one.jsonl", "--retain", "retain.jsonl", *sets),
        run("unlearn", "ledger", "--forget", "two.jsonl", "--json"),
        run("requests", "ledger"),
        run("unlearn", "ledger", "--forget", "two.jsonl"),
        run("unlearn", "ledger", "--forget", "two.jsonl", "--name", "Brightwater-2"),
        run("unlearn", checkpoint("llama"), "--forget", "one.jsonl", "--retain", "overlap.jsonl", "--output", "new"),
        run("undo", "ledger", "request-1"),
        run("verify", "ledger", "--json"),
    ]
    assert [result.exit_code for result in outputs] == [0, 0, 0, 2, 2, 2, 0, 0]
    said = "\n".join([result.stdout + result.stderr for result in outputs] + [caplog.text])
    for path in (here / "ledger").rglob("*"):
        said += path.read_bytes().decode("utf-8", "ignore") if path.is_file() else ""
    assert get_plotlyjs() in said, "the page is among the files"
    said = said.replace(get_plotlyjs(), "")  # which knows the United Arab Emirates
    for entity in ENTITIES:
        assert entity.casefold() not in said.casefold(), entity
    words = re.findall(r"\w+", said.casefold())
    runs = {tuple(words[place : place + 5]) for place in range(len(words))}
    for row in (row for rows in CANARIES for row in rows):
        for text in row.values():
            own = re.findall(r"\w+", text.casefold())
            assert not runs & {tuple(own[place : place + 5]) for place in range(len(own) - 4)}
