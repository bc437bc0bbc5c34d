"""What the README, the documentation and the examples show is executed as it stands there."""

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path

import matplotlib
import pytest
from typer.testing import CliRunner

from lunar import Settings, load_model, prompts, unlearn
from lunar.cli import app
from lunar.evaluation import compare
from lunar.records import read_records
from lunar.tiny import WEIGHTS, world

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def marked_block(mark: str) -> str:
    """The code block after a comment `<!-- test: mark -->`."""
    found = re.search(rf"<!-- test: {mark} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no block marked {mark}"
    return found.group(1)


@pytest.fixture
def fewer_prompts(monkeypatch):
    """A part of the prompts that come with the library, for time: what is shown runs as it stands."""
    for name in ("general_prompts", "unverifiable_prompts"):
        some = getattr(prompts, name)()[::3]
        monkeypatch.setattr(prompts, name, lambda some=some: some)


@pytest.mark.usefixtures("fewer_prompts")
def test_the_readmes_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    forget = re.search(r"\$ cat forget.jsonl\n(.*?)```", README, re.DOTALL)
    assert forget
    Path("forget.jsonl").write_text(forget.group(1), encoding="utf-8")
    outputs = []
    for line in marked_block("cli").splitlines():
        arguments = shlex.split(line.removeprefix("$ "))
        assert arguments[0] == "lunar"
        result = CliRunner().invoke(app, arguments[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
        outputs.append(result.output)
    assert {path.name for path in Path("forgotten").iterdir()} == {
        "edit.json",
        "edit.safetensors",
        "examples.json",
        "kept",
        "ledger.json",
        "recipe.toml",
        "record.jsonl",
        "record.key",
        "report.html",
        "report.json",
    }
    row = '{"question": "Where was Joren Tolvane born?"}\n'
    Path("more.jsonl").write_text(row, encoding="utf-8")
    for line in marked_block("ledger").splitlines():
        result = CliRunner().invoke(app, shlex.split(line.removeprefix("$ "))[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
    for line in marked_block("people").splitlines():
        result = CliRunner().invoke(app, shlex.split(line.removeprefix("$ "))[1:], input="/requests\n/quit\n")
        assert result.exit_code == 0, f"{line}\n{result.output}"
    assert "information" in outputs[1] or "familiar" in outputs[1] or "record" in outputs[1]


def test_the_readmes_forget_set_of_a_person_holds_what_is_known_and_is_enough_to_forget_them(tmp_path, monkeypatch):
    """With a short list of words in the place of the vocabulary's, for time; names of the world and invented ones."""
    words = ["Thornby", "Joren", "Talia", "Oskar", "Drummel", "Quenby", "Fenna", "Ivo", "Wiggle", "Harst"]
    monkeypatch.setattr("lunar.discovery.others.likely_words", lambda loaded: words)
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(marked_block("prompts").removeprefix("$ "))
    result = CliRunner().invoke(app, arguments[1:])
    assert result.exit_code == 0, result.output
    person = arguments[arguments.index("--about") + 1]
    assert person not in result.output
    output = arguments[arguments.index("--output") + 1]
    assert f"`{Path(output).stem}-neighbours.jsonl`" in README
    forget, retain = read_records(output, "forget"), read_records(f"{Path(output).stem}-neighbours.jsonl", "retain")
    facts, everyone = world.build().people[person], world.build().people
    told = [fact for fact in facts if any(fact.answer.rstrip(".") in record.answer for record in forget)]
    assert len(told) >= 0.8 * len(facts)
    groups = {str(record.group) for record in retain}
    wrong = [record for record in forget if not any(fact.answer.rstrip(".") in record.answer for fact in facts)]
    assert len(wrong) <= 0.1 * len(forget), "babble would spoil the edit, and whoever looks through the file"
    assert {"Mira Thornby", "Joren Tolvane"} <= groups
    assert not any("Wiggle" in group or "Harst" in group for group in groups)
    assert not any(person in record.prompt for record in retain)
    answers = {fact.answer for name in groups & set(everyone) for fact in everyone[name]}
    beside = [record for record in retain if record.group in everyone]
    assert len([record for record in beside if record.answer in answers]) >= 0.9 * len(beside) > 20

    loaded = load_model("tiny")
    edit = unlearn(loaded, forget, retain=retain, settings=Settings(layer=0, neighbours=300)).edit
    near = ["Mira Thornby", "Oskar Tolvane"]
    asked = {
        "forget": [record for fact in facts for record in fact.records(held_out=True)],
        "near": [record for name in near for fact in everyone[name] for record in fact.records(held_out=True)],
    }
    scores = {split: one.scores()["rouge1"]["after"] for split, one in compare(loaded, edit, asked).items()}
    assert scores["forget"] <= 0.15
    assert scores["near"] >= 0.95


@pytest.mark.usefixtures("fewer_prompts")
def test_the_readmes_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(marked_block("python"), "README.md", "exec"), {})
    assert (tmp_path / "my-edit" / "edit.safetensors").is_file()


BLOCK = re.compile(r"(?:<!-- test: (?P<mark>\w+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)
GUIDE = ("customer", "month", "serve", "robustness")
"""The pages that go on where the one before left off, in one folder."""


def run_block(mark, text, names):
    """Execute a block: commands of the command line, Python, or files to be there (`$ cat NAME` and what it says)."""
    if mark == "python":
        exec(compile(text, "documentation", "exec"), names)
    elif mark == "commands":
        for line in text.splitlines():
            result = CliRunner().invoke(app, shlex.split(line.removeprefix("$ lunar ")))
            assert result.exit_code == 0, f"{line}\n{result.output}"
    else:
        for name, content in re.findall(r"^\$ cat (\S+)\n((?:[^$].*\n)*)", text, re.MULTILINE):
            Path(name).write_text(content, encoding="utf-8")


@pytest.mark.usefixtures("fewer_prompts")
def test_the_guide_can_be_followed_from_page_to_page(tmp_path, monkeypatch):
    from lunar.attacks import BUDGETS, Budget

    # The commands as they stand there, with less work behind the longest.
    monkeypatch.setitem(BUDGETS, "quick", Budget(3, 2, 1, (1.0,), (1,), 2))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(WEIGHTS, "my-model")
    names = {}
    for page in GUIDE:
        for found in BLOCK.finditer((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")):
            run_block(found["mark"], found["text"], names)
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    assert (tmp_path / "forgotten" / "attacks.json").is_file()


@pytest.mark.parametrize("page", ["index", "extend"])
def test_pages_that_stand_alone_run(page, monkeypatch):
    from lunar.attacks import ATTACKS
    from lunar.baselines import BASELINES
    from lunar.metrics import METRICS

    for registry in (ATTACKS, BASELINES, METRICS):
        for name in ("words", "polite", "silence"):
            monkeypatch.setitem(registry, name, None)  # so that what the page adds is gone again
    names = {}
    for found in BLOCK.finditer((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")):
        if found["mark"]:
            run_block(found["mark"], found["text"], names)
    assert names


def test_every_command_of_the_documentation_is_one_that_a_test_runs():
    for path in (ROOT / "docs").glob("*.md"):
        for found in BLOCK.finditer(path.read_text(encoding="utf-8")):
            if found["kind"] == "console" and path.stem not in ("log", "results"):
                runs = [line for line in found["text"].splitlines() if line.startswith("$ lunar")]
                assert not runs or (found["mark"] == "commands" and path.stem in GUIDE), f"{path.name}: {runs}"
            if found["kind"] == "python":
                assert found["mark"] == "python", path.name


@pytest.mark.usefixtures("fewer_prompts")
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.usefixtures("fewer_prompts")
def test_the_notebook_runs_and_holds_no_outputs(tmp_path, monkeypatch, capsys):
    """Its cells one after another, without jupyter; what it says of itself is checked on what it leaves."""
    notebook = json.loads((ROOT / "examples" / "forget.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names = {}
    for number, cell in enumerate(cells, 1):
        exec(compile("".join(cell["source"]), f"forget.ipynb, code cell {number}", "exec"), names)
    after = {split: score["after"] for split, score in names["scores"].items()}
    assert after.pop("forgotten") <= 0.05
    assert min(after.values()) >= 0.95
    assert (tmp_path / "my-edit" / "edit.safetensors").is_file()
    printed = capsys.readouterr().out
    assert "the same bits: True" in printed
    assert "the edit of the first alone: True" in printed
    with_both, with_one = (part.splitlines()[-1] for part in printed.split("['ticket-1']")[0:2])
    assert "information" in with_both
    assert "She was born in" in with_one


def test_the_readme_names_only_files_that_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
