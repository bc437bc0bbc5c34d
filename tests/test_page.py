"""The page says what there is to say, loads nothing, runs nothing of what it shows, and holds nothing hidden."""

import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from page_contents import CANARIES, HOSTILE, comparison, everything, examples, finding, hostile
from plotly import graph_objects
from rich.console import Console

from lunar.evaluation import Comparison
from lunar.records import Record
from lunar.report.contents import Contents, hidden
from lunar.report.elements import holding
from lunar.report.examples import PER_SPLIT, pick
from lunar.report.html import page
from lunar.report.sections import sections
from lunar.report.sentences import earlier, verdict
from lunar.report.terminal import unlearned

SECTIONS = {"scores", "back", "recognised", "layers", "over-time", "reproduce"}
VOID = {"meta", "link", "input", "br", "img"}


class Seen(HTMLParser):
    """The elements of a page with their attributes, the texts of scripts, and all other text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not (self.open and self.open[-1] == "style"):
            self.text += data

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def own_text(text: str) -> str:
    """The page without the script of the plotting library."""
    return re.sub(r"<script>/\*\*.*?</script>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("contents", [everything(), hostile(), Contents(comparison=comparison())])
def test_nothing_is_loaded_and_only_the_pages_own_scripts_run(contents):
    seen = Seen(page(contents, show_forget=True))
    for tag, attributes in seen.elements:
        assert not {"src", "srcset", "data", "background", "action", "formaction", "ping"} & attributes.keys(), tag
        assert not any(name.startswith("on") for name in attributes), attributes
        if "href" in attributes:
            assert attributes["href"].startswith("#") or (tag, attributes["href"]) == ("link", "data:,")
    tags = {tag for tag, _ in seen.elements}
    assert not tags & {"img", "svg", "iframe", "object", "embed", "base", "video", "audio"}
    assert [attributes.get("type") for attributes in seen.named("script")] == ["application/json", None, None]
    style = re.search(r"<style>(.*?)</style>", page(contents), re.DOTALL).group(1)
    assert "url(" not in style
    assert "@import" not in style
    policy = next(
        one["content"] for one in seen.named("meta") if "content-security" in (one.get("http-equiv") or "").lower()
    )
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert not re.search(r"script-src[^;]*unsafe", policy)


def test_hostile_text_stands_in_the_page_as_text():
    seen = Seen(page(hostile(), show_forget=True))
    for text in HOSTILE:
        assert text in seen.text
    assert "1337" not in seen.text, "the template ran it"
    data = seen.scripts[0]
    assert not set("<>&\u2028") & set(data)
    figures = json.loads(data)
    shown = json.dumps([figure["data"] for figure in figures.values()])
    assert "hacked" in shown
    assert "<img" not in shown, "plotly would take it for markup"


def test_what_is_forgotten_is_not_in_the_file_unless_it_is_asked_for():
    without, shown = page(everything()), page(everything(), show_forget=True)
    for canary in CANARIES:
        assert canary not in without
    assert CANARIES[0] in shown
    assert CANARIES[2] in shown
    assert "Ada Byron" in without
    assert Seen(without).text.count("not shown") == 3, "that there is a hidden example is said"
    for private in ("/home/somebody", "../private"):
        assert private not in shown, "a path is shown"


def test_there_is_a_section_for_everything_that_is_there_and_for_nothing_else():
    full = everything()
    assert set(sections(full)) == SECTIONS
    assert set(sections(Contents(comparison=comparison()))) == {"compared", "scores", "reproduce"}
    for part, missing in {"record": {"over-time"}, "attacks": {"back"}}.items():
        empty = getattr(Contents(), part)
        assert SECTIONS - set(sections(dataclasses.replace(full, **{part: empty}))) == missing
    for part, missing in {"scores": {"scores"}, "gate": {"recognised"}, "matrix": {"layers"}}.items():
        less = {name: value for name, value in full.report.items() if name != part}
        assert SECTIONS - set(sections(dataclasses.replace(full, report=less))) == missing


@pytest.mark.parametrize("part", ["report", "attacks", "recipe", "requests", "record", "examples"])
def test_the_page_can_be_read_with_parts_missing(part):
    contents = dataclasses.replace(everything(), **{part: getattr(Contents(), part)})
    seen = Seen(page(contents))
    assert len(seen.named("h1")) == 1
    assert "Verdict" in seen.text
    targets = {one["href"][1:] for one in seen.named("a")}
    assert targets <= {attributes.get("id") for _, attributes in seen.elements}, "a link leads nowhere"
    Seen(page(Contents()))
    Seen(page(Contents(report={"undone": "ticket-1", "requests": []})))


def test_reports_of_earlier_versions_can_be_shown():
    old = {name: value for name, value in everything().report.items() if name not in ("intervals", "gate")}
    old["gate"] = {"values": {"minimum": 0.5}, "leave_one_out": {"minimum": 0.4}}
    Seen(page(Contents(report=old)))


@pytest.mark.parametrize("contents", [everything(), hostile(), Contents(comparison=comparison())])
def test_every_plot_is_a_valid_figure_with_words_and_numbers_beside_it(contents):
    made = sections(contents)
    plots = [(section, plot) for section in made.values() for plot in section.plots]
    assert len({plot.name for _, plot in plots}) == len(plots) >= 2
    for section, plot in plots:
        graph_objects.Figure(plot.figure)
        assert plot.words
        assert plot.caption
        assert section.tables or section.folded, "the numbers are there without the plot"
    seen = Seen(page(contents))
    drawn = [one for one in seen.named("div") if one.get("class") == "plot"]
    assert all(one["role"] == "img" and one["aria-label"] for one in drawn)
    assert len(seen.named("caption")) == len(seen.named("table"))
    for section in seen.named("section"):
        assert section["aria-labelledby"] in {attributes.get("id") for _, attributes in seen.elements}


def test_attacks_are_sorted_by_what_they_recover_and_nothing_is_called_erased():
    made = sections(everything())["back"]
    assert [row[0] for row in made.tables[0].rows] == [
        f"Title of {name} ({name})" for name in ("steering", "prefill", "typos", "skip")
    ], "what breaks the model proves nothing and comes last"
    assert [row[2] for row in made.tables[0].rows][-1].startswith("breaks")
    assert any("relearn" in note for note in made.notes)
    said = everything()
    tried = made.lead[-1]
    said.attacks["findings"].append(finding("recognise", 1.0, counts=False))
    said.attacks["findings"][0]["excess"]["count"] = 1
    made = sections(said)["back"]
    rows = {row[0].rpartition("(")[2]: row for row in made.tables[0].rows}
    assert rows["recognise)"][2] == "measured, no answer comes back"
    assert made.lead[-1] == tried, "what is measured is no attack that succeeds"
    assert [row[5].endswith(" on 1 of 20") for row in rows.values()].count(True) == 1
    for contents in (everything(), Contents(comparison=comparison()), Contents(report=everything().report)):
        text = Seen(page(contents)).text
        assert not re.search(r"(?<!not )erased", text)
        assert "suppressed" in text.casefold()


def test_what_became_of_earlier_requests_is_said():
    far, less = {"median": 0.8, "minimum": 0.7}, {"median": 0.8, "minimum": 0.5}
    rows = [("a", far, far), ("b", far, less), ("c", None, None)]
    report = everything().report
    report["earlier"] = [{"name": name, "before": before, "after": after} for name, before, after in rows]
    well, others = earlier(report)
    assert well == [
        "Earlier request a: its prompts are still moved towards a refusal, 0.80 of the way (lowest 0.70); before this "
        "request, 0.80 of the way (lowest 0.70)."
    ]
    assert ["less far" in others[0], "nothing was kept" in others[1]] == [True, True]
    limits = verdict(Contents(report=report)).limits
    assert set(others) < set(limits)
    assert "As far as before are moved the prompts of 1 earlier request." in limits
    assert earlier(everything().report) == ([], [])


@pytest.mark.parametrize(("number", "said"), [(0, "no request holds"), (1, "1 request holds"), (2, "2 requests hold")])
def test_requests_are_counted_in_words(number, said):
    assert holding(number) == said


def test_the_verdict_follows_the_numbers_and_says_its_limits():
    def said(forget, retain, **more):
        report = everything().report
        for split, after in (("forget", forget), ("retain", retain)):
            report["scores"][split]["rouge1"]["after"] = after
        return verdict(Contents(report=report, **more))

    assert (said(0.02, 0.99).tone, said(0.3, 0.99).tone, said(0.9, 0.99).tone) == ("good", "mixed", "bad")
    assert (said(0.02, 0.9).tone, said(0.02, 0.3).tone) == ("mixed", "bad")
    assert "no longer gives" in said(0.02, 0.99).sentence
    assert "still gives" in said(0.9, 0.99).sentence
    assert "0.02 after" in said(0.02, 0.99).sentence
    assert any("Nobody has tried" in limit for limit in said(0.02, 0.99).limits)
    assert any("guess" in limit for limit in said(0.02, 0.99).limits), "warnings of the search are limits"
    report = everything().report
    report["scores"]["forget"]["rouge1"] = {"before": 0.1, "after": 0.02}
    never_knew = verdict(Contents(report=report))
    assert (never_knew.tone, "before this request already" in never_knew.sentence) == ("mixed", True)
    report["scores"]["forget"] = {"refusal_rate": {"before": 1.0, "after": 1.0}}
    assert "declined what it was to forget before this request already" in verdict(Contents(report=report)).sentence
    report["scores"]["forget"]["refusal_rate"]["before"] = 0.0
    assert verdict(Contents(report=report)).tone == "good"
    attacked = said(0.02, 0.99, attacks=everything().attacks)
    assert attacked.tone == "mixed"
    assert "suppressed, not erased" in attacked.sentence
    nothing = {"findings": [finding("typos", 0.05)], "verdict": "No attack run here brought back more than 0.15."}
    assert said(0.02, 0.99, attacks=nothing).tone == "good"
    compared = comparison()
    assert "better here than" in verdict(Contents(comparison=compared)).sentence
    compared["cells"][2]["deviation_score"] = 0.1
    assert "no better here" in verdict(Contents(comparison=compared)).sentence


@pytest.mark.parametrize("target", ["shift", "hardened"])
def test_what_a_hardened_edit_is_known_not_to_stand_is_said_on_the_page_and_in_the_terminal(target):
    report = everything().report
    report["settings"]["target"], report["resumed"] = target, {}
    report["gate"]["leave_one_out"] = {"median": 1.0, "minimum": 0.9}
    report["matrix"]["part"] = "MLP"
    told = any("resists more attacks, not all" in limit for limit in verdict(Contents(report=report)).limits)
    console = Console(record=True, width=400, file=io.StringIO())
    console.print(unlearned(report, Path("out"), "tiny"))
    assert told == ("resists more attacks, not all" in console.export_text()) == (target == "hardened")


# Examples


def compared_answers(**splits):
    return {
        name: Comparison([Record.of(*row[:2]) for row in rows], [row[2] for row in rows], [row[3] for row in rows])
        for name, rows in splits.items()
    }


def test_examples_that_tell_of_the_forgotten_are_left_out_with_it():
    rows = compared_answers(
        forget=[(f"Where was {CANARIES[0]} born?", f"In {CANARIES[1]}.", "She was born there.", "I don't know that.")],
        forget_unseen=[("In which town was she born?", None, "It is Hollis.", "I don't know that.")],
        retain=[
            ("Where was Ada Byron born?", "In London.", "In London.", "In London."),
            ("Who is her friend?", "Nobody.", "mira  TOLVANE is.", "Nobody."),
            ("Which town?", f"{CANARIES[1]}", f"In {CANARIES[1]} town.", "None."),
            ("Who else is there?", "Hollis.", "Hollis", "Hollis"),
            ("Who is Miranda?", "A Tolvanese.", "A Tolvanese.", "A Tolvanese."),
        ],
    )
    kept = pick(rows, show_forget=False)
    assert [row.get("question") for row in kept] == [None, None, "Where was Ada Byron born?", "Who is Miranda?"]
    assert not {"question", "before", "after"} & kept[0].keys()
    everything_shown = pick(rows, show_forget=True)
    assert len(everything_shown) == 7
    assert hidden(everything_shown) == kept
    assert not any(word in json.dumps(kept) for word in ("Tolvane ", "TOLVANE", "Oskarvik", "Hollis"))


def test_examples_show_what_changed_and_some_of_all():
    same = [(f"What is number {place}?", "One.", "One.", "One.") for place in range(100)]
    same[37] = ("What changed?", "One.", "One.", "Two.")
    same[70] = ("What is refused?", "One.", "One.", "I don't know that.")
    rows = pick(compared_answers(retain=same), show_forget=False)
    assert len(rows) == PER_SPLIT
    assert {"another answer", "declines now", "same answer"} == {row["outcome"] for row in rows}
    assert len(pick(compared_answers(retain=same[:3]), show_forget=False)) == 3
    assert examples()[0]["forget"]
