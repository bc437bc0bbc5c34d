"""Make a language model forget a set of prompts, in closed form.

    from lunar import Record, load_model, unlearn

The names below are imported when they are first used, so that `import lunar` and `lunar --help` load neither torch nor
transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lunar.edit import Edit
    from lunar.errors import LunarError
    from lunar.evaluation import answer_records, compare, summary
    from lunar.method import Unlearned, unlearn
    from lunar.models import LoadedModel, Site, find_sites, load_model
    from lunar.moments import Moments
    from lunar.records import Record, read_records, split_by_group
    from lunar.requests.ledger import Ledger
    from lunar.settings import Settings

__all__ = [
    "Edit",
    "Ledger",
    "LoadedModel",
    "LunarError",
    "Moments",
    "Record",
    "Settings",
    "Site",
    "Unlearned",
    "__version__",
    "answer_records",
    "compare",
    "find_sites",
    "load_model",
    "read_records",
    "split_by_group",
    "summary",
    "unlearn",
]

_HOMES = {
    "errors": ("LunarError",),
    "records": ("Record", "read_records", "split_by_group"),
    "settings": ("Settings",),
    "models": ("LoadedModel", "Site", "find_sites", "load_model"),
    "moments": ("Moments",),
    "edit": ("Edit",),
    "method": ("Unlearned", "unlearn"),
    "requests.ledger": ("Ledger",),
    "evaluation": ("answer_records", "compare", "summary"),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562). No module of the package may bear the name of a public function."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("lunar-unlearn")
    elif name in _MODULES:
        value = getattr(import_module(f"lunar.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module 'lunar' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
