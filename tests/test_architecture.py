"""Imports inside the library point only upwards in the order of the data, and its mathematics knows no models."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lunar
import lunar.errors

SOURCE = Path(lunar.errors.__file__).parent
ORDER = [
    "errors",
    "progress",
    "settings",
    "weights",
    "hub",
    "safety",
    "checkpoints",
    "names",
    "records",
    "rewordings",
    "neighbours",
    "recipe",
    "prompts",
    "preflight",
    "layers",
    "memory",
    "models",
    "activations",
    "passage",
    "generation",
    "logits",
    "likelihood",
    "symmetric",
    "moments",
    "processes",
    "targets",
    "solve",
    "edit",
    "metrics",
    "interrupted",
    "collect",
    "gated",
    "select",
    "method",
    "baselines",
    "evaluation",
    "discovery",
    "attacks",
    "comparison",
    "report",
    "doctor",
    "requests",
    "export",
    "tiny",
    "reporting",
    "workflow",
    "comparing",
    "ledgers",
    "attacking",
    "discovering",
    "chat",
    "ui",
    "demo",
    "options",
    "cli_requests",
    "cli_compare",
    "cli_attack",
    "cli_prompts",
    "cli_doctor",
    "cli_chat",
    "cli_ui",
    "cli_report",
    "cli",
    "__main__",
    "__init__",
]
MATHEMATICS = ("errors", "settings", "weights", "symmetric", "moments", "targets", "solve", "edit", "select/separation")
FILES = sorted(path for path in SOURCE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The entry of ORDER that a file belongs to: its folder or its own name."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Absolute dotted names of all imports of a file, also those inside functions and `if TYPE_CHECKING`."""
    package = ["lunar", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def inner_imports(path: Path) -> Iterator[tuple[str, str]]:
    """(dotted name, entry of ORDER) of a file's imports from the library; `lunar.X` of a public name is __init__."""
    for name in imports(path):
        first, _, rest = name.partition(".")
        if first == "lunar":
            part = rest.split(".")[0]
            known = (SOURCE / f"{part}.py").is_file() or (SOURCE / part / "__init__.py").is_file()
            yield name, part if part and known else "__init__"


def allowed(importer: str, name: str, imported: str) -> bool:
    if importer == imported and importer != "__init__":
        return True
    if (importer, name) == ("models", "lunar.tiny.WEIGHTS"):
        return True  # only the path of the embedded model's folder; the test below keeps that file free of imports
    if name == "lunar.__version__":
        return importer == "cli"
    return ORDER.index(imported) < ORDER.index(importer)


def test_every_module_has_its_place_in_the_order() -> None:
    unknown = {part_of(path) for path in FILES} - set(ORDER)
    assert not unknown, f"give {sorted(unknown)} a place in ORDER"


def test_no_module_bears_a_public_name() -> None:
    assert not set(lunar.__all__) & {part_of(path) for path in FILES}  # importing the module would hide the name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_only_upwards(path: Path) -> None:
    wrong = [name for name, part in inner_imports(path) if not allowed(part_of(path), name, part)]
    assert not wrong, f"{path.name} comes before what it imports: {wrong}"


def test_the_package_of_the_embedded_model_imports_nothing_of_the_library() -> None:
    assert not list(inner_imports(SOURCE / "tiny" / "__init__.py"))


@pytest.mark.parametrize("part", MATHEMATICS)
def test_the_mathematics_knows_torch_and_itself_only(part: str) -> None:
    path = SOURCE / f"{part}.py"
    assert {inner for _, inner in inner_imports(path)} <= set(MATHEMATICS)
    outside = {name.split(".")[0] for name in imports(path)} - {"lunar"} - set(sys.stdlib_module_names)
    assert outside <= {"torch", "safetensors", "jaxtyping", "scipy"}


def test_the_check_sees_imports_of_all_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "cli.py").touch()
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "__init__.py").touch()
    forms = {
        "import lunar.cli": "cli",
        "import torch, lunar.cli as c": "cli",
        "from lunar.cli import main": "cli",
        "from lunar import cli": "cli",
        "from . import cli": "cli",
        "from .cli import main": "cli",
        "def f():\n    from lunar.tiny.world import WORLD": "tiny",
        "if TYPE_CHECKING:\n    from lunar import unlearn": "__init__",
        "import lunar": "__init__",
    }
    for text, part in forms.items():
        (tmp_path / "errors.py").write_text(text)
        found = list(inner_imports(tmp_path / "errors.py"))
        assert [imported for _, imported in found] == [part], text
        assert not any(allowed("errors", name, imported) for name, imported in found), text
    (tmp_path / "tiny" / "world.py").write_text("from .. import cli\nfrom . import names")
    assert [imported for _, imported in inner_imports(tmp_path / "tiny" / "world.py")] == ["cli", "tiny"]
