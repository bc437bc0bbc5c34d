"""What the README and the examples show is executed as it stands there."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lunar.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def marked_block(mark: str) -> str:
    """The code block after a comment `<!-- test: mark -->`."""
    found = re.search(rf"<!-- test: {mark} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no block marked {mark}"
    return found.group(1)


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
    assert "information" in outputs[1] or "familiar" in outputs[1] or "record" in outputs[1]


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(marked_block("python"), "README.md", "exec"), {})
    assert (tmp_path / "my-edit" / "edit.safetensors").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_the_readme_names_only_files_that_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
