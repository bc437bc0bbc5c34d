"""`report.html`: one file that says what came of it, opens from the disk and fetches nothing.

Prompts and answers are somebody else's text: the template escapes all of it, what goes into scripts is data and not
code, and the page's own content security policy lets no other script run and no request leave.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lunar.report.contents import Contents, hidden
from lunar.report.elements import readable
from lunar.report.sections import sections
from lunar.report.sections.reproduce import last_part
from lunar.report.sentences import BARS, verdict

ON_PAPER = 4
"""Examples of each split that are printed; on the screen there are more."""
_FOR_SCRIPTS = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def page(contents: Contents, *, show_forget: bool = False) -> str:
    """The whole page. Without `show_forget` no text of the forget set is in it, whatever the contents hold."""
    rows = _numbered(contents.examples if show_forget else hidden(contents.examples))
    made = sections(contents)
    figures = {plot.name: plot.figure for section in made.values() for plot in section.plots}
    scripts = [_plotly(), _own("report.js")] if figures or rows else []
    return _template().render(
        title=_title(contents),
        verdict=verdict(contents),
        bars="" if contents.comparison or not contents.scores() else BARS,
        sections=made,
        examples=rows,
        splits=[(split, readable(split)) for split in dict.fromkeys(row["split"] for row in rows)],
        outcomes=sorted({row["outcome"] for row in rows}),
        hidden=not show_forget and any(row["forget"] for row in rows),
        on_paper=ON_PAPER,
        figures=for_script(figures),
        scripts=[Markup(script) for script in scripts],
        style=Markup(_own("report.css")),
        policy=_policy(scripts),
        versions=contents.versions,
        time=str(contents.last.get("time", ""))[:16].replace("T", " "),
    )


def _numbered(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, those that are one too many of their split for paper marked as "more"."""
    seen: Counter[str] = Counter()
    found = []
    for row in rows:
        seen[row["split"]] += 1
        found.append({**row, "more": seen[row["split"]] > ON_PAPER})
    return found


def for_script(content: Mapping[str, Any]) -> Markup:
    """JSON to stand inside a script element: nothing in it can end the element or be taken for markup."""
    return Markup(json.dumps(content, ensure_ascii=False, allow_nan=False).translate(_FOR_SCRIPTS))


def _title(contents: Contents) -> str:
    model = last_part(str(contents.sources.get("model", "a model")))
    return f"Methods of forgetting compared on {model}" if contents.comparison else f"What {model} was made to forget"


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("lunar.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["readable"] = readable
    return environment.get_template("report.html.jinja")


@cache
def _own(name: str) -> str:
    return files("lunar.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _policy(scripts: Sequence[str]) -> str:
    """Only these very scripts run; nothing is loaded from anywhere, and no form is sent."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
