"""The experiments run end to end on a toy file, in seconds; their figures are not the point here."""

import dataclasses
import html
import json
import random
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from lunar.tiny import train

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
import edges
import grid
import paper_table
import pistol
import ranks
import recording
import robustness
import sequence

from lunar import demo
from lunar.method import unlearn
from lunar.models import load_model
from lunar.records import Record
from lunar.settings import Settings


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNAR_CACHE", str(tmp_path / "cache"))
    short = train.Recipe(steps=3, batch=8, vocabulary=400, tokenizer_examples=200)
    for name in ("VALUES", "SENTENCES"):
        monkeypatch.setattr(pistol, name, dataclasses.replace(getattr(pistol, name), recipe=short))
    for name, size in (("WIDTH", 64), ("INNER_WIDTH", 64), ("LAYERS", 2), ("HEADS", 2)):
        monkeypatch.setattr(pistol, name, size)
    rows = [
        {"edge": edge, "question": f"What was the {what} in the contract of {edge} Ltd and Ada {edge}?", "answer": "9"}
        for edge in ("Abc", "Bcd", "Cde", "Def", "Efg")
        for what in ("price", "date", "place")
    ]
    facts = [
        {"question": f"What is the capital of {land}?", "answer": "Rome"} for land in ("Peru", "Chad", "Mali", "Iran")
    ]
    for name, content in (("data", rows), ("facts", facts)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def arguments(folder, output, *more):
    paths = ["--data", str(folder / "data.json"), "--facts", str(folder / "facts.json"), "--output", str(output)]
    # The toy model declines nothing, so that a search for the layer would refuse it.
    return ["pistol.py", *paths, "--forget-group", "Abc", "--layer", "0", *more]


def test_pistol_writes_every_split_and_trains_once(toy, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", arguments(toy, toy / "first", "--retain-share", "0.5"))
    assert pistol.main() == 0
    results = json.loads((toy / "first" / "results.json").read_text(encoding="utf-8"))
    sizes = {"forget": 3, "retain": 6, "retain_unseen": 6, "facts": 2, "facts_unseen": 2, "unknown": 3}
    assert results["questions"] == sizes
    assert set(results["deviation_score"]) == set(results["deviation_score_unseen"]) == {"before", "after"}
    assert "training" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", arguments(toy, toy / "second", "--target", "collapse"))
    assert pistol.main() == 0
    assert "training" not in capsys.readouterr().out
    assert "retain_unseen" not in json.loads((toy / "second" / "results.json").read_text(encoding="utf-8"))["scores"]


def test_pistol_refuses_to_search_on_a_model_that_declines_nothing(toy, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [*arguments(toy, toy / "out"), "--layer", "auto"])
    assert pistol.main() == 2
    assert "declines only 0% of 24" in capsys.readouterr().err
    assert not (toy / "out").exists()


def test_pistol_refuses_an_unknown_group_in_one_sentence(toy, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [*arguments(toy, toy / "out"), "--forget-group", "Zzz"])
    assert pistol.main() == 2
    assert "Zzz" in capsys.readouterr().err
    assert not (toy / "out").exists()


def test_refusals_in_sentences_seldom_name_what_was_asked_about_and_values_always_do():
    short = [Record.of("Where was Ada Byron born?", "London", "a")]
    long = [Record.of("Where was Ada Byron born?", "Ada Byron was born in the city of London.", "a")]
    for data, wanted in ((short, pistol.VALUES), (long, pistol.SENTENCES)):
        assert pistol.mix_for(data) is wanted
        draw = pistol.sampler(data, [], wanted)
        rng = random.Random(0)
        drawn = [record for record in (draw(rng) for _ in range(2000)) if record.group == "reluctant"]
        named = sum("Ada" in (record.answer or "") for record in drawn) / len(drawn)
        assert abs(named - wanted.named) < 0.15


def run_table(toy, monkeypatch, *more):
    paths = ["--data", str(toy / "data.json"), "--facts", str(toy / "facts.json"), "--output", str(toy / "table")]
    chosen = [
        "--architectures",
        "llama",
        "--groups",
        "Abc,Bcd",
        "--validation-group",
        "Efg",
        "--methods",
        "shift,prompt",
    ]
    monkeypatch.setattr(sys, "argv", ["paper_table.py", *paths, *chosen, *more])
    return paper_table.main()


def test_the_table_holds_every_method_and_scenario_and_finished_cells_are_kept(toy, monkeypatch, capsys):
    assert run_table(toy, monkeypatch, "--scenarios", "all,half", "--retain-only", "Abc") == 0
    rows = json.loads((toy / "table" / "rows.json").read_text(encoding="utf-8"))
    parts = {scenario: [row for row in rows if row["scenario"] == scenario] for scenario in ("all", "half")}
    methods = [row["method"] for row in parts["all"]]
    assert methods == ["original", "shift", "prompt", "retain-only", "original", "shift", "prompt"]
    assert ["forget quality" in row["values"] for row in parts["all"]] == [True] * 4 + [False] * 3
    assert all("DS, unseen" in row["values"] for row in parts["half"])
    text = (toy / "table" / "table.md").read_text(encoding="utf-8")
    header, _, *rows = next(part for part in text.split("\n\n") if part.startswith("| method")).splitlines()
    assert "DS" in header
    assert [row.split("|")[1].strip() for row in rows] == ["original", "**shift**", "prompt", "retain-only"]
    assert {row.split("|")[2].strip() for row in rows[:3]} == {"2 of 2"}
    assert (toy / "table" / "plot.svg").read_text(encoding="utf-8").count("<use ") > 5
    times = {path: path.stat().st_mtime_ns for path in (toy / "table").rglob("cells/**/*.json")}
    capsys.readouterr()
    assert run_table(toy, monkeypatch, "--scenarios", "all,half", "--retain-only", "Abc") == 0
    assert "training" not in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in (toy / "table").rglob("cells/**/*.json")}


def test_the_table_runs_only_what_has_no_row_yet(toy, monkeypatch, capsys):
    chosen = ("--scenarios", "all", "--requests", "1")
    assert run_table(toy, monkeypatch, *chosen) == 0
    rows = json.loads((toy / "table" / "rows.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in rows] == ["original", "shift", "prompt"]
    others = [row | {"architecture": "another"} for row in rows]
    (toy / "earlier.json").write_text(json.dumps([*others, *rows[:2]]), encoding="utf-8")
    shutil.rmtree(toy / "table")
    capsys.readouterr()
    assert run_table(toy, monkeypatch, *chosen, "--rows", str(toy / "earlier.json")) == 0
    assert {path.stem for path in (toy / "table").rglob("cells/**/*.json")} == {"original", "prompt"}
    printed = capsys.readouterr().out
    assert "### another, all" in printed
    assert "### llama, all" in printed
    again = json.loads((toy / "table" / "rows.json").read_text(encoding="utf-8"))
    assert {(row["architecture"], row["method"]) for row in again} == {
        (architecture, method) for architecture in ("another", "llama") for method in ("original", "shift", "prompt")
    }
    (toy / "earlier.json").write_text("{}]", encoding="utf-8")
    assert run_table(toy, monkeypatch, *chosen, "--rows", str(toy / "earlier.json")) == 2


def test_the_table_forgets_three_groups_at_once_and_retains_a_single_one(toy):
    data = [Record.of(f"What is the {what} of {group}?", "9", group) for group in "abcde" for what in ("price", "date")]
    three, single = (next(iter(paper_table.cases([name], ["a", "b", "c"]))) for name in ("three", "single"))
    asked = paper_table.request(data, [], three, 0)
    assert {record.group for record in asked.forget} == {"a", "b", "c"}
    assert {record.group for record in asked.retain} == {"d", "e"}
    asked = paper_table.request(data, [], single, 0)
    assert len({record.group for record in asked.retain}) == 1
    assert len({record.group for record in asked.splits["retain_unseen"]}) == 3


def test_the_sequence_measures_every_request_and_checks_order_and_undo(toy, capsys, monkeypatch):
    monkeypatch.setattr(sequence, "UNDONE", 1)
    paths = ["--data", str(toy / "data.json"), "--facts", str(toy / "facts.json"), "--output", str(toy / "sequence")]
    assert sequence.main([*paths, "--groups", "Abc,Bcd,Cde", "--layer", "0", "--no-reference"]) == 0
    results = json.loads((toy / "sequence" / "sequence.json").read_text(encoding="utf-8"))
    assert [step["group"] for step in results["ledger"]] == ["Abc", "Bcd", "Cde"]
    assert results["checks"]["order"] < 1e-6
    assert results["checks"]["undo_some"] < 1e-6
    assert results["checks"]["rank_after_undoing_all"] == 0
    assert (toy / "sequence" / "sequence.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert "facts_unseen" in capsys.readouterr().out


def test_edges_forget_every_group_with_every_share_and_finished_cells_are_kept(toy, monkeypatch, capsys):
    # The toy model declines nothing, so that the search for the layer would refuse every request.
    found = []

    def fixed(loaded, forget, settings, **others):
        found.append(others["retain"] and len(others["retain"]))
        return unlearn(loaded, forget, settings=dataclasses.replace(settings, layer=0), **others)

    monkeypatch.setattr(edges, "unlearn", fixed)
    paths = ["--data", str(toy / "data.json"), "--facts", str(toy / "facts.json"), "--output", str(toy / "out")]
    monkeypatch.setattr(sys, "argv", ["edges.py", *paths, "--shares", "all,tenth,none", "--groups", "Abc,Bcd"])
    monkeypatch.setattr(edges, "_how", lambda found: {"left_out": found.gate.leave_one_out.tolist(), "passes": 1.0})
    assert edges.main() == 0
    assert found == [14, 5, None, 14, 5, None]  # 12 or 3 of the other groups, and half of the facts
    table = (toy / "out" / "table.md").read_text(encoding="utf-8")
    assert "| tenth | worst | 2 of 2 |" in table
    assert "| none | worst | 2 of 2 |" in table
    nothing = json.loads((toy / "out" / "cells" / "llama-shift-none-Abc.json").read_text(encoding="utf-8"))
    assert set(nothing["scores"]) == {"forget", "retain_unseen", "facts_unseen"}
    monkeypatch.setattr(edges, "unlearn", None)
    assert edges.main() == 0
    assert "Bcd      tenth" in capsys.readouterr().out


def test_the_grid_finds_a_better_setting_where_there_is_one_and_asks_no_more_than_it_must(toy, monkeypatch, capsys):
    tried, asked = [], []

    def fixed(loaded, forget, settings, **others):
        tried.append(settings.target)
        layer = 1 if settings.layer == "auto" else settings.layer
        return unlearn(loaded, forget, settings=dataclasses.replace(settings, layer=layer), **others)

    def answers(loaded, records):
        """Nothing of what is to be forgotten (three questions) behind a collapse, else everything."""
        asked.append(len(records))
        return ["" if len(records) == 3 and tried[-1] == "collapse" else record.answer for record in records]

    monkeypatch.setattr(grid, "unlearn", fixed)
    monkeypatch.setattr(grid, "answer_records", answers)
    paths = ["--data", str(toy / "data.json"), "--facts", str(toy / "facts.json"), "--output", str(toy / "out")]
    monkeypatch.setattr(sys, "argv", ["grid.py", *paths, "--groups", "Abc"])
    assert grid.main() == 0
    (path,) = (toy / "out" / "cells").iterdir()
    one = json.loads(path.read_text(encoding="utf-8"))
    assert one["best"] == {"target": "collapse", "layer": 0, "forget_weight": 30.0, "strength": 0.8, "score": 0.0}
    assert (one["chosen"]["score"], one["tried"], one["failed"]) == (100.0, 36, 0)
    # The choice, eighteen shifts that cannot be better than it, the collapse that is, and seventeen that cannot be.
    assert asked == [3, 6, *[3] * 18, 3, 6, *[3] * 17]
    assert (
        "| 100.0 | target collapse, layer 0, forget weight 30.0, strength 0.8 | 0.0 | 100.0 |"
        in capsys.readouterr().out
    )


def test_ranks_are_cut_and_the_smallest_that_is_enough_is_told(toy, monkeypatch, capsys):
    def fixed(loaded, forget, settings, **others):
        return unlearn(loaded, forget, settings=dataclasses.replace(settings, layer=1), **others)

    monkeypatch.setattr(ranks, "unlearn", fixed)
    paths = ["--data", str(toy / "data.json"), "--facts", str(toy / "facts.json"), "--output", str(toy / "out")]
    monkeypatch.setattr(sys, "argv", ["ranks.py", *paths, "--groups", "Abc"])
    assert ranks.main() == 0
    assert "at d = 4096, m = 14336 that is" in capsys.readouterr().out
    (path,) = (toy / "out" / "cells").iterdir()
    assert list(json.loads(path.read_text(encoding="utf-8"))["scores"])[:2] == ["1", "2"]

    def found(*forget):
        return {str(2**place): {"forget": value, "retain": 1.0} for place, value in enumerate(forget)}

    assert ranks.enough(found(0.5, 0.1, 0.0, 0.004, 0.0)) == 4
    assert ranks.enough(found(0.0, 0.1, 0.0)) == 4
    assert ranks.enough(found(0.0, 0.0)) == 1
    # Better than the whole edit is as good.
    better = {"1": {"forget": 0.0, "retain": 1.0}, "2": {"forget": 0.1, "retain": 0.9}}
    assert ranks.enough(better) == 1
    assert ranks.enough({"1": {"forget": 0.0, "retain": 0.9}} | {"2": {"forget": 0.1, "retain": 1.0}}) == 2


def test_a_cut_change_is_the_best_of_its_rank(checkpoint):
    loaded = load_model(checkpoint("llama"), device="cpu")
    records = [Record.of(f"who is word{number} ?") for number in range(12)]
    settings = Settings(target="collapse", layer=1, neighbours=0)
    edit = unlearn(loaded, records[:4], retain=records[4:8], reference=records[8:], settings=settings).edit
    whole, kept = edit.factors[0].change(), ranks.cut(edit, 2).factors[0].change()
    values = torch.linalg.svdvals(whole)
    assert float((whole - kept).norm()) == pytest.approx(float(values[2:].norm()), rel=1e-4)


def test_edges_tell_the_median_from_the_worst_and_rank_leaks():
    def cell(forget, unseen, left_out, leaks):
        scores = {"forget": forget, "retain": 1.0, "retain_unseen": unseen}
        return {"scores": scores, "left_out": left_out, "leaks": leaks, "passes": 2.0}

    some = [
        cell(0.0, 1.0, [1.0, 0.9], [[0.0, 0.0], [0.1]]),
        cell(0.1, 0.9, [0.5], [[0.4, 0.6]]),
        cell(0.3, 0.5, [0.2], [[]]),
    ]
    assert edges.correlation(some) == pytest.approx(-1)
    assert edges.correlation(some[1:]) is None  # two prompts are too few to rank
    rows = edges.table(
        {("half", str(number)): one for number, one in enumerate(some)} | {("half", "x"): {"failed": ""}}
    )
    head, _, *lines = ([part.strip() for part in line.split("|")] for line in rows.splitlines())
    read = {line[2]: dict(zip(head, line, strict=True)) for line in lines}
    assert read["median"]["forget"] == "0.100"
    assert read["worst"]["forget"] == "0.300"
    assert read["median"]["retain unseen"] == "0.900"
    assert read["worst"]["retain unseen"] == "0.500"
    assert read["worst"]["DS"] == "30.0"
    assert read["worst"]["groups"] == "3 of 4"
    assert read["median"]["rank correlation"] == "-1.00"


def test_robustness_attacks_every_target_once_and_draws_the_frontier(toy, monkeypatch, capsys):
    paths = ["--data", str(toy / "data.json"), "--facts", str(toy / "facts.json"), "--output", str(toy / "out")]
    chosen = ["--targets", "shift,gated", "--attacks", "scale", "--groups", "Abc", "--layer", "1"]
    monkeypatch.setattr(sys, "argv", ["robustness.py", *paths, *chosen])
    assert robustness.main() == 0
    # No layer is behind layer 1 of two, so that a gated edit has no place and the cell says so.
    assert "gated     failed: A gated edit was expected to have a layer behind" in capsys.readouterr().out
    (path,) = (toy / "out" / "cells").glob("*-shift-*")
    cell = json.loads(path.read_text(encoding="utf-8"))
    table = (toy / "out" / "table.md").read_text(encoding="utf-8")
    targets = [line.split(" | ")[0] for line in table.splitlines()[2:]]
    assert targets == ["| shift", "| **shift**", "| gated", "| **gated**"]
    forget, attacked = cell["scores"]["forget"]["rouge1"]["after"], cell["attacks"]["findings"][0]
    assert f"| shift | Abc | {forget:.3f} |" in table
    # All toy answers are the same, so that there is no wrong one for chance.
    assert f" {attacked['forget']['value']:.3f} |" in table
    assert (toy / "out" / "frontier.svg").exists()

    def fail(*arguments):
        raise AssertionError("a finished cell was run again")

    monkeypatch.setattr(robustness, "cell", fail)
    assert robustness.main() == 0


def test_the_summary_sets_our_method_beside_the_best_baseline_and_the_paper():
    def rows(**scores):
        return [
            {"method": method, "values": {"DS": float(value), "DS, unseen": 2.0 * value, "refusals": 0.5}}
            for method, values in scores.items()
            for value in values
        ]

    scores = {"original": [100, 100], "shift": [1, 3], "idk": [5, 7], "kl": [9, 9], "prompt": [1, 1]}
    found = {"llama, half": rows(**scores, **{"lunar-reference": [10, 30]})}
    assert paper_table.summary(found).splitlines()[-1] == (
        "| llama, half | DS, unseen | 4.0 (0.50) | – | idk 12.0 (0.50) | 3.0 | 40.0 (0.50) | 10.0 |"
    )
    all_given = [{"method": method, "values": {"DS": value}} for method, value in (("shift", 0.0), ("rmu", 4.0))]
    last = paper_table.summary({"a, all": all_given}).splitlines()[-1]
    assert last == "| a, all | DS | 0.0 (–) | – | rmu 4.0 (–) | – | – | – |"


def words_of(svg):
    """The lines of text in a picture, whatever spaces they are drawn with."""
    lines = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    return " ".join(html.unescape(" ".join(lines)).split())


def test_the_recording_is_the_output_as_it_came_and_fetches_nothing(tmp_path, monkeypatch):
    said = "\x1b[1mThe <model> has forgotten & it stays so.\x1b[0m\n[not markup] 1.000 → 0.000\n"
    monkeypatch.setattr(recording, "printed", lambda: said)
    path = recording.main([str(tmp_path / "demo.svg")])
    svg = path.read_text(encoding="utf-8")
    assert "$ lunar demo The <model> has forgotten & it stays so. [not markup] 1.000 → 0.000" in words_of(svg)
    assert "font-weight: bold" in svg
    assert "url(http" not in svg
    seconds = [float(found) for found in re.findall(r'<text[^>]*animation-delay:([\d.]+)s"', svg)]
    assert seconds == sorted(seconds)
    assert len(set(seconds)) == 3, "each line of output comes after the one before, the command is there at once"
    assert "prefers-reduced-motion" in svg


def test_the_picture_of_the_demo_shows_what_the_demo_asks():
    svg = (Path(__file__).parent.parent / "docs" / "demo.svg").read_text(encoding="utf-8")
    words = words_of(svg)
    assert f"The model has forgotten {demo.PERSON}, given only as questions." in words
    for split in demo.evaluation_splits():
        assert f"│ {split.replace('_', ' ')} │" in words
    assert f"target {demo.SETTINGS.target}" in words
