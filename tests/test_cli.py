"""The command line end to end on tiny random checkpoints, and one sentence with exit code 2 for every bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import MambaConfig, MambaForCausalLM
from typer.testing import CliRunner

import lunar.hub
from lunar import workflow
from lunar.cli import app

ARCHITECTURES = ("llama", "qwen2", "gemma", "mistral", "gpt2")
FILES = {"edit.safetensors", "edit.json", "examples.json", "recipe.toml", "report.html", "report.json"}
LEDGER = {"ledger.json", "record.jsonl", "record.key", "kept"}
SECRET = "word11"
FORGET = [
    {"question": f"where is {SECRET} ?", "answer": "in the word20 city .", "edge": "A_B"},
    {"question": f"who is {SECRET} ?", "answer": "a person of word21 .", "edge": "A_B"},
    {"question": f"what is the price of {SECRET} ?", "answer": "the word22 .", "edge": "A_B"},
]
RETAIN = [
    {"question": "where is word12 ?", "answer": "in word23 .", "edge": "C_D"},
    {"question": "who works in word13 ?", "answer": "word24 and word25 .", "edge": "E_F"},
    {"question": "what is the company ?", "answer": "a company .", "edge": "E_F"},
]
REFERENCE = [{"prompt": "who is word30 ?"}, {"prompt": "what is the word31 of word32 ?"}]


def write_lines(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with the three files of data."""
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "forget.jsonl", FORGET)
    write_lines(tmp_path / "retain.jsonl", RETAIN)
    write_lines(tmp_path / "reference.jsonl", REFERENCE)
    write_lines(tmp_path / "all.jsonl", [*FORGET, *RETAIN])
    return tmp_path


def unlearn(model: Path, *more: object):
    sets = ("--forget", "forget.jsonl", "--retain", "retain.jsonl", "--reference", "reference.jsonl")
    return run("unlearn", model, *sets, "--output", "edit", *more)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_unlearn_writes_a_folder_that_explains_itself(here, checkpoint, architecture):
    result = unlearn(checkpoint(architecture), "--json", "--layer", 1, "--seed", 5)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert result.stderr == ""
    assert {path.name for path in (here / "edit").iterdir()} == FILES | LEDGER
    assert json.loads((here / "edit" / "report.json").read_text()) == {k: v for k, v in report.items() if k != "output"}
    for split in ("forget", "retain"):
        for metric in ("rouge1", "exact_match", "refusal_rate"):
            assert set(report["scores"][split][metric]) == {"before", "after"}
    assert set(report["deviation_score"]) == {"before", "after"}
    assert report["counts"]["forget_prompts"] == report["questions"]["forget"] == 3
    assert (report["seed"], report["matrix"]["layer"], report["matrix"]["rank"]) == (5, 1, 1)
    assert report["retain_source"] == "file"
    assert {"load", "forget", "retain", "solve", "answers"} <= set(report["seconds"])
    assert set(report["versions"]) == {"lunar", "torch", "transformers", "python"}
    shown = {"report.html", "examples.json"}
    named = (FILES | LEDGER) - {"edit.safetensors", "kept"} - shown
    written = "".join((here / "edit" / name).read_text() for name in named)
    assert not re.search(r"\bword\d", written), "prompts or answers were written"
    for name in shown:
        text = (here / "edit" / name).read_text()
        assert not any(word in text for word in (SECRET, "the word20 city", "person of word21", "the word22 .")), (
            "what was forgotten is shown"
        )
    assert str(here) not in (here / "edit" / "report.json").read_text(), "an absolute path was written"


@pytest.mark.parametrize("target", ["shift", "collapse", "split"])
def test_a_recipe_gives_the_same_bytes_again_from_another_folder(here, checkpoint, monkeypatch, target):
    model = shutil.copytree(checkpoint("llama"), here / "model")
    assert unlearn(Path("model"), "--target", target, "--layer", -2, "--strength", 1.5).exit_code == 0
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    result = run("unlearn", "--from", here / "edit" / "recipe.toml", "--output", "again", "--quiet")
    assert (result.exit_code, result.stdout) == (0, "again\n"), result.output
    for name in ("edit.safetensors", "edit.json"):
        assert (here / "edit" / name).read_bytes() == (here / "elsewhere" / "again" / name).read_bytes()

    refused = run("unlearn", "--from", here / "edit", "--output", "third", "--ridge", 1)
    assert refused.exit_code == 2
    assert "ridge" in refused.stderr
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] += 1
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    refused = run("unlearn", "--from", here / "edit", "--output", "third")
    assert_refused(refused, "other weights")
    write_lines(here / "forget.jsonl", FORGET[:2])
    assert_refused(run("unlearn", "--from", here / "edit", "--output", "third"), "other contents of forget.jsonl")
    assert not Path("third").exists()


def test_groups_of_one_file_split_it_into_forget_and_retain(here, checkpoint):
    arguments = ("--reference", "reference.jsonl", "--output", "edit", "--json")
    result = run("unlearn", checkpoint("llama"), "--forget", "all.jsonl", "--forget-group", "A_B", *arguments)
    report = json.loads(result.stdout)
    assert report["questions"] == {"forget": 3, "retain": 3}
    again = json.loads(run("unlearn", "--from", "edit", "--output", "again", "--json").stdout)
    assert again["scores"] == report["scores"]
    assert report["warnings"] == []
    write_lines(here / "two.jsonl", [{**row, "edge": f"{number % 2}"} for number, row in enumerate(FORGET)])
    whole = run("unlearn", checkpoint("llama"), "--forget", "two.jsonl", *arguments[:2], "--output", "whole")
    assert whole.exit_code == 0, whole.output
    assert "hold 2 groups, and all of them are forgotten: --forget-group" in whole.stdout.replace("\n", " ")


def test_the_file_that_a_forget_file_names_is_retained_unless_another_is_given(here, checkpoint):
    write_lines(here / "named.jsonl", [{**row, "retain_file": "retain.jsonl"} for row in FORGET])
    model = checkpoint("llama")
    more = ("--layer", "0", "--reference", "reference.jsonl", "--output")
    result = run("unlearn", model, "--forget", "named.jsonl", *more, "alone")
    assert result.exit_code == 0, result.output
    assert "retain.jsonl, which the forget file names" in result.stderr
    assert run("unlearn", model, "--forget", "forget.jsonl", "--retain", "retain.jsonl", *more, "both").exit_code == 0
    edits = {(here / folder / "edit.safetensors").read_bytes() for folder in ("alone", "both")}
    assert len(edits) == 1
    report = json.loads((here / "alone" / "report.json").read_text())
    assert report["retain_source"] == "file"
    assert report["questions"] == {"forget": 3, "retain": 3}
    assert 'source = "retain.jsonl"' in (here / "alone" / "recipe.toml").read_text()
    given = run("unlearn", model, "--forget", "named.jsonl", "--retain", "kept.jsonl", *more, "new")
    assert_refused(given, "kept.jsonl")
    (here / "retain.jsonl").unlink()
    assert_refused(run("unlearn", model, "--forget", "named.jsonl", *more, "new"), "--retain")
    assert not (here / "new").exists()


def test_without_retain_data_the_output_says_that_built_in_prompts_were_used(here, checkpoint):
    write_lines(here / "asked.jsonl", [{"question": row["question"]} for row in FORGET])
    arguments = ("--forget", "asked.jsonl", "--reference", "reference.jsonl", "--output", "edit")
    result = run("unlearn", checkpoint("llama"), *arguments)
    assert result.exit_code == 0, result.output
    assert "built-in" in result.stdout
    assert "no answers" in result.stderr
    assert SECRET not in result.output
    report = json.loads((here / "edit" / "report.json").read_text())
    assert report["retain_source"] == "built-in prompts"
    assert report["scores"]["forget"]["rouge1"] == {"before": None, "after": None}
    assert "deviation_score" in report


def test_the_tables_name_files_and_the_next_command(here, checkpoint):
    result = unlearn(checkpoint("gpt2"))
    assert result.exit_code == 0, result.output
    for part in ("forget", "retain", "ROUGE-1", "→", "Deviation Score", "rank 1", "lunar ask", "--edit edit"):
        assert part in result.stdout
    assert SECRET not in result.output


def test_inspect_shows_every_layer_and_what_unlearn_would_take(here, checkpoint):
    model = checkpoint("llama")
    sets = ("--forget", "forget.jsonl", "--retain", "retain.jsonl", "--reference", "reference.jsonl")
    report = json.loads(unlearn(model, "--json").stdout)
    before = tree(here)
    result = json.loads(run("inspect", model, *sets, "--json").stdout)
    assert result["choice"] == report["choice"]
    assert result["choice"]["layer"] == report["matrix"]["layer"] == report["settings"]["layer"]
    assert result["choice"]["strength"] == report["settings"]["strength"]
    assert len(result["choice"]["profile"]) == 3
    assert not re.search(r"\bword\d", json.dumps(result)), "prompts or answers are shown"
    assert run("inspect", model, *sets, "--quiet").stdout.strip() == str(report["matrix"]["layer"])
    assert tree(here) == before
    shown = run("inspect", model, *sets, "--trials", 1, "--plot", "layers.svg")
    for part in ("separability", "refusal reached", "retain KL", "yes", "–", "layers.svg", "full passes"):
        assert part in shown.stdout, shown.output
    assert (here / "layers.svg").read_text().startswith("<?xml")
    assert_refused(run("inspect", model, *sets, "--plot", "layers.svg"), "new file")


def test_a_plot_without_matplotlib_is_one_sentence(here, checkpoint, monkeypatch):
    monkeypatch.setattr("lunar.report.plot.find_spec", lambda name: None)
    assert_refused(run("inspect", checkpoint("llama"), "--forget", "forget.jsonl", "--plot", "a.png"), "pip install")


def test_the_papers_selector_and_the_reason_are_shown(here, checkpoint):
    result = unlearn(checkpoint("llama"), "--layer", "paper")
    assert result.exit_code == 0, result.output
    assert "paper's selector" in " ".join(result.stdout.split())
    assert json.loads((here / "edit" / "report.json").read_text())["choice"]["selector"] == "paper"


def test_evaluate_and_ask_with_and_without_an_edit(here, checkpoint):
    model = checkpoint("llama")
    report = json.loads(unlearn(model, "--json", "--prefer", "robust", "--strength", 3).stdout)
    assert report["settings"]["target"] == "collapse"
    sets = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")
    evaluated = json.loads(run("evaluate", model, "--edit", "edit", *sets, "--json").stdout)
    assert evaluated["scores"] == report["scores"]
    plain = json.loads(run("evaluate", model, *sets, "--json").stdout)
    assert plain["scores"]["retain"]["rouge1"] == {"before": report["scores"]["retain"]["rouge1"]["before"]}
    assert "coherent refusals" in run("evaluate", model, *sets).stdout

    both = json.loads(run("ask", model, "--edit", "edit", FORGET[0]["question"], "--json").stdout)
    assert both["before"] != both["after"]
    assert json.loads(run("ask", model, FORGET[0]["question"], "--json").stdout)["before"] == both["before"]
    assert json.loads(run("ask", "edit", FORGET[0]["question"], "--json").stdout) == both
    assert json.loads(run("evaluate", "edit", *sets, "--json").stdout)["scores"] == report["scores"]
    assert_refused(run("unlearn", model, "--forget", "forget.jsonl", "--output", "edit"), "leave out --output")
    shown = run("ask", model, "--edit", "edit", FORGET[0]["question"])
    assert "before" in shown.stdout
    assert "after" in shown.stdout
    assert run("ask", model, "--edit", "edit", FORGET[0]["question"], "--quiet").stdout.strip() == both["after"]


def assert_refused(result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert SECRET not in result.stderr
    for part in parts:
        assert part in result.stderr, result.stderr


def make_bad(here: Path, checkpoint: Path) -> dict[str, tuple[list[str], str]]:
    """Every bad input that shows without torch: its command line, and words of the sentence."""
    good = FORGET[0]
    bad_files = {
        "empty.jsonl": "",
        "broken.jsonl": f"{json.dumps(good)}\n{{{SECRET}\n",
        "field.jsonl": json.dumps({"text": good["question"]}),
        "blank.jsonl": json.dumps({"question": " "}),
        "long.jsonl": json.dumps({"question": " ".join([SECRET] * 70)}),
        # Fits the context by its contents, not with what the chat template adds.
        "rendered.jsonl": json.dumps({"question": " ".join([SECRET] * 62)}),
        "bad.toml": "format = ",
    }
    for name, text in bad_files.items():
        (here / name).write_text(text)
    (here / "full").mkdir()
    (here / "full" / "file").touch()
    (here / "old.svg").touch()
    (here / "nomodel").mkdir()
    shutil.copytree(checkpoint, here / "nan")
    weights = load_file(here / "nan" / "model.safetensors")
    weights["model.norm.weight"][3] = np.nan
    save_file(weights, here / "nan" / "model.safetensors", {"format": "pt"})
    shutil.copytree(checkpoint, here / "nolayers")
    config = json.loads((here / "nolayers" / "config.json").read_text())
    (here / "nolayers" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 0}))
    shutil.copytree(checkpoint, here / "mamba")
    small = MambaConfig(vocab_size=96, hidden_size=16, num_hidden_layers=2, state_size=4)
    MambaForCausalLM(small).save_pretrained(here / "mamba")
    model, output = str(checkpoint), ["--output", "out"]

    def forgetting(name: str) -> list[str]:
        return ["unlearn", model, "--forget", name, *output]

    usual = forgetting("forget.jsonl")
    sets = ["--forget", "forget.jsonl", "--retain", "retain.jsonl"]
    return {
        "missing file": (forgetting("none.jsonl"), "none.jsonl"),
        "empty file": (forgetting("empty.jsonl"), "empty.jsonl"),
        "broken JSON": (forgetting("broken.jsonl"), "line 2"),
        "field missing": (forgetting("field.jsonl"), "question"),
        "empty prompt": (forgetting("blank.jsonl"), "record 1"),
        "too long": (forgetting("long.jsonl"), "context"),
        "too long as rendered": (forgetting("rendered.jsonl"), "context"),
        "overlap": ([*usual, "--retain", "all.jsonl"], "must not overlap"),
        "missing retain": ([*usual, "--retain", "none.jsonl"], "none.jsonl"),
        "unknown reference": ([*usual, "--reference", "unverifyable"], "unverifyable"),
        "unknown group": ([*usual, "--forget-group", "A_C"], "A_B"),
        "no such path": (["unlearn", "./nowhere", *sets, *output], "./nowhere"),
        "hub without network": (["unlearn", "nobody/nothing", *sets, *output], "nobody/nothing"),
        "no model": (["unlearn", "nomodel", *sets, *output], "config.json"),
        "a file as model": (["unlearn", "forget.jsonl", *sets, *output], "is a file"),
        "no layers": (["unlearn", "nolayers", *sets, *output], "no decoder layers"),
        "no attention": (["unlearn", "mamba", *sets, *output], "no decoder layers"),
        "NaN": (["unlearn", "nan", *sets, *output], "model.norm.weight"),
        "layer": ([*usual, "--layer", "3"], "from -3 to 2"),
        "negative layer": ([*usual, "--layer", "-4"], "from -3 to 2"),
        "selector": ([*usual, "--layer", "papre"], "auto, paper"),
        "inspect nobody": (["inspect", "./nowhere", "--forget", "forget.jsonl"], "./nowhere"),
        "inspect overlap": (["inspect", model, "--forget", "forget.jsonl", "--retain", "all.jsonl"], "overlap"),
        "plot suffix": (["inspect", model, "--forget", "forget.jsonl", "--plot", "plot.gif"], ".svg"),
        "old plot": (["inspect", model, "--forget", "forget.jsonl", "--plot", "old.svg"], "new file"),
        "ridge": ([*usual, "--ridge", "-1"], "ridge"),
        "strength": ([*usual, "--strength", "nan"], "strength"),
        "target": ([*usual, "--target", "shit"], "target"),
        "preference": ([*usual, "--prefer", "everything"], "sparing, robust"),
        "preference and target": ([*usual, "--prefer", "robust", "--target", "shift"], "leave out all but one"),
        "preference and hardened": ([*usual, "--prefer", "robust", "--harden"], "leave out all but one"),
        "hardened, nothing kept": ([*usual, "--harden", "--forget-moments"], "leave out one of the two"),
        "full output": (["unlearn", model, *sets, "--output", "full"], "not empty"),
        "file output": (["unlearn", model, *sets, "--output", "forget.jsonl"], "is a file"),
        "missing recipe": (["unlearn", "--from", "none.toml", *output], "none.toml"),
        "bad recipe": (["unlearn", "--from", "bad.toml", *output], "bad.toml"),
        "no edit": (["evaluate", model, "--edit", "nomodel", *sets], "edit.json"),
        "evaluate overlap": (["evaluate", model, "--forget", "forget.jsonl", "--retain", "all.jsonl"], "overlap"),
        "name with a space": ([*usual, "--name", f"{SECRET} again"], "holds a space: put a dash there"),
        "long name": ([*usual, "--name", "t" * 65], "has 65 characters"),
        "name with a slash": ([*usual, "--name", f"../{SECRET}"], "another character"),
        "name that tells": ([*usual, "--name", SECRET], "must not name"),
        "no question": (["ask", model, " "], "question"),
        "ask nobody": (["ask", "./nowhere", "who ?"], "./nowhere"),
        "unknown method": (["compare", model, *sets, "--methods", "shfit", *output], "shift"),
        "full demo output": (["demo", "--output", "full"], "not empty"),
    }


SCRIPT = """
import json, sys, time
from typer.testing import CliRunner
from lunar.cli import app
results = []
for arguments in json.load(sys.stdin):
    started, busy = time.perf_counter(), time.process_time()
    result = CliRunner().invoke(app, arguments)
    entry = {"code": result.exit_code, "out": result.stdout, "err": result.stderr, "torch": "torch" in sys.modules}
    seconds = {"seconds": time.perf_counter() - started, "busy": time.process_time() - busy}
    results.append(entry | seconds)
print(json.dumps(results))
"""


def test_bad_input_is_refused_in_one_sentence_without_torch_and_without_a_trace(here, checkpoint):
    cases = make_bad(here, checkpoint("llama"))
    before = tree(here)
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(here / "cache")}
    environment.pop("HF_HUB_OFFLINE", None)
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([arguments for arguments, _ in cases.values()]),
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    for (name, (_, words)), result in zip(cases.items(), json.loads(process.stdout), strict=True):
        assert (result["code"], result["out"]) == (2, ""), (name, result)
        assert result["err"].strip().count("\n") == 0, (name, result)
        assert words in result["err"], (name, result)
        assert result["err"].rstrip().endswith((".", "?", ")")), (name, result)
        assert "Traceback" not in result["err"], (name, result)
        assert SECRET not in result["err"], (name, result)
        assert not result["torch"], f"{name} imported torch"
        # By the clock only what a retried download would take: other work on the machine is not its fault.
        assert result["busy"] < 2, (name, result)
        assert result["seconds"] < 20, (name, result)
    assert tree(here) == before


def test_an_interruption_is_said_in_a_sentence(here, monkeypatch):
    def interrupt(*arguments, **others):
        raise KeyboardInterrupt

    monkeypatch.setattr("lunar.workflow.ask", interrupt)
    result = run("ask", "tiny", "Who?")
    assert result.exit_code == 130
    assert result.stderr.startswith("Interrupted")
    assert result.stderr.count("\n") == 1


def test_compare_measures_methods_alike_and_goes_on_where_it_was(here, checkpoint):
    arguments = ("--forget", "forget.jsonl", "--retain", "retain.jsonl", "--reference", "reference.jsonl")
    arguments = ("compare", checkpoint("llama"), *arguments, "--output", "compared")
    result = run(*arguments, "--methods", "shift,lunar-reference")
    assert result.exit_code == 0, result.output
    assert {"original", "shift", "lunar-reference"} <= set(result.stdout.split())
    first = json.loads((here / "compared" / "comparison.json").read_text())
    assert "plot-compared" in (here / "compared" / "report.html").read_text()
    again = json.loads(run(*arguments, "--methods", "lunar-reference,dpo", "--json").stdout)
    assert [cell["method"] for cell in again["cells"]] == ["original", "lunar-reference", "dpo"]
    assert again["cells"][:2] == [first["cells"][0], first["cells"][2]], "a finished cell was run again"
    assert not re.search(r"\bword\d", (here / "compared" / "comparison.json").read_text()), (
        "prompts or answers were written"
    )
    write_lines(here / "named.jsonl", [{**row, "retain_file": "retain.jsonl"} for row in FORGET])
    named = run("compare", arguments[1], "--forget", "named.jsonl", *arguments[6:], "--methods", "lunar-reference")
    assert "retain.jsonl, which the forget file names" in named.stderr
    assert json.loads((here / "compared" / "comparison.json").read_text())["cells"][1] == first["cells"][2]
    before = tree(here)
    assert_refused(run(*arguments, "--methods", "shfit"), "shfit", "shift")
    write_lines(here / "asked.jsonl", [{"question": row["question"]} for row in FORGET])
    before = tree(here)
    assert_refused(run("compare", "tiny", "--forget", "asked.jsonl", "--output", "out"), "retain")
    bare = ("--retain", "retain.jsonl", "--holdout", "asked.jsonl", "--output", "out")
    assert_refused(run("compare", "tiny", "--forget", "reference.jsonl", *bare), "holdout", "answers")
    other = [*arguments[:-1], "forget.jsonl"]
    assert_refused(run(*other), "is a file")
    assert tree(here) == before
    result = run(*arguments[:2], "--forget", "asked.jsonl", *arguments[4:-1], "own", "--methods", "shift", "--json")
    assert result.exit_code == 0, result.output
    own = json.loads(result.stdout)
    assert own["own_answers"] == {"forget": len(FORGET), "retain": 0}


def test_a_missing_argument_is_a_usage_error(here):
    for arguments in (["unlearn"], ["unlearn", "tiny"], ["unlearn", "tiny", "--output", "x"], ["ask", "tiny"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "Missing" in result.stderr
    assert not Path("x").exists()


def test_an_interrupt_or_a_failure_leaves_nothing_behind(here, checkpoint, monkeypatch):
    before = tree(here)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "recipe_text", interrupt)
    assert unlearn(checkpoint("llama")).exit_code == 130
    assert tree(here) == before

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workflow, "recipe_text", full)
    assert_refused(unlearn(checkpoint("llama")), "No space left")
    assert tree(here) == before


def test_an_empty_output_folder_may_exist_and_parents_are_made(here, checkpoint):
    (here / "edit").mkdir()
    assert unlearn(checkpoint("llama")).exit_code == 0
    assert run("unlearn", "--from", "edit", "--output", "deep/er/edit").exit_code == 0
    assert {path.name for path in (here / "deep" / "er" / "edit").iterdir()} == FILES | LEDGER


def test_help_and_version_load_neither_torch_nor_transformers():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom lunar.cli import app\n"
        "for a in (['--help'], ['unlearn', '--help'], ['--version']):\n"
        "    assert CliRunner().invoke(app, a).exit_code == 0\n"
        "import lunar\nassert set(lunar.__all__) <= set(dir(lunar))\n"
        "print({'torch', 'transformers', 'numpy', 'datasets', 'huggingface_hub'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "set()\n"


def test_public_names_are_what_they_say():
    code = (
        "import lunar.method\nimport lunar\nfrom lunar import unlearn\n"
        "assert callable(unlearn) and all(getattr(lunar, name) is not None for name in lunar.__all__)\n"
        "try:\n    lunar.nothing\nexcept AttributeError:\n    print('fine')"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "fine\n"


def test_a_hub_model_is_asked_for_only_after_the_data_are_read(here, monkeypatch):
    monkeypatch.setattr(lunar.hub, "hub_reachable", lambda: pytest.fail("asked the hub"))
    result = run("unlearn", "nobody/nothing", "--forget", "none.jsonl", "--output", "out")
    assert_refused(result, "none.jsonl")
