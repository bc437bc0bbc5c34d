"""What stands where on the page, and which action each control calls.

One conversation and one model serve all windows: events wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

# Before the import: it asks and tells Gradio's makers nothing.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
import gradio

from lunar.errors import LunarError
from lunar.ui.actions import Actions

ROWS, WIDTHS = ["Question", "Before", "After"], ["30%", "35%", "35%"]
PRIVATE = {"api_visibility": "private", "concurrency_id": "model", "concurrency_limit": 1}
"""Of every event: none is offered to other programs, and no two run at once."""
STYLE = """
.gradio-container { max-width: 1100px !important; margin: auto !important; }
.beside { align-self: center; max-height: 44px; }
.gradio-container .table-wrap td, .gradio-container .table-wrap td * {
  font-family: var(--font) !important; white-space: normal !important; overflow-wrap: anywhere; }
.gradio-container .table-wrap th * { font-family: var(--font) !important; }
.danger-note { border-left: 4px solid var(--error-border-color); padding-left: 12px; }
"""
INTRODUCTION = """# lunar: {}
Every question is answered by the model without any request (*before*) and with the requests that are on (*after*).
Nothing that is written here leaves this machine."""
DRAFT = """Write what would be forgotten, one question per line, or have questions made from a name. **Try** makes the
edit on the side and writes nothing; **Commit** adds the request to the ledger."""


def theme() -> Any:
    """Gradio's own, with the fonts of the system, for its usual ones come from elsewhere."""
    return gradio.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def build(actions: Actions) -> Any:
    """The whole page, for a server to show."""
    with gradio.Blocks(title="lunar", analytics_enabled=False, delete_cache=None) as page:
        gradio.Markdown(INTRODUCTION.format(_plain(actions.session.folder.absolute().name)))
        with gradio.Tab("Ask", id="ask"):
            _ask(actions)
        with gradio.Tab("Requests", id="requests") as requests:
            boxes, status = _requests(actions)
        with gradio.Tab("Draft", id="draft"):
            _draft(actions, boxes, status)

        names = gradio.State(())

        def shown(ticked: list[str], known: tuple[str, ...]) -> tuple[Any, str, tuple[str, ...]]:
            """The boxes again where they show something else: whoever ticks one meanwhile is not to lose that."""
            alike = known == tuple(actions.names()) and set(ticked) == set(actions.on())
            boxes = gradio.skip() if alike else _choices(actions)
            return boxes, actions.requests_line(), tuple(actions.names())

        def opened() -> tuple[Any, str, tuple[str, ...]]:
            # An empty page would otherwise go on with a conversation that it does not show.
            actions.start_afresh()
            return _choices(actions), actions.requests_line(), tuple(actions.names())

        # What another window has done, or another program by the time the page is loaded again.
        page.load(opened, None, [boxes, status, names], show_progress="hidden", **PRIVATE)
        requests.select(shown, [boxes, names], [boxes, status, names], show_progress="hidden", **PRIVATE)
    return page.queue()


def _ask(actions: Actions) -> None:
    with gradio.Row():
        question = gradio.Textbox(label="Question", placeholder="Ask something", autofocus=True, scale=5, max_lines=4)
        send = gradio.Button("Ask", variant="primary", scale=1, min_width=100, elem_classes="beside")
    recognised = gradio.Textbox(
        label="How far the question is recognised", interactive=False, elem_id="recognised", max_lines=1
    )
    with gradio.Row():
        before = gradio.Textbox(label="Before", interactive=False, lines=4, elem_id="before")
        after = gradio.Textbox(label="After", interactive=False, lines=4, elem_id="after")
    note = gradio.Markdown()
    with gradio.Accordion("What was asked", open=False):
        history = gradio.Dataframe(
            headers=["Question", "Recognised", "Before", "After"], column_widths=["26%", "16%", "29%", "29%"], **_TABLE
        )
    afresh = gradio.Button("Start afresh: both sides forget what was said", size="sm")

    @_said
    def ask(text: str) -> Iterator[Any]:
        for shown in actions.ask(text):
            yield shown.recognised, shown.before, shown.after, shown.note, gradio.skip()
        yield shown.recognised, shown.before, shown.after, shown.note, [list(row) for row in actions.history()]

    @_said
    def start_afresh() -> tuple[str, str, str, str]:
        actions.start_afresh()
        return "", "", "", "Both sides have forgotten what was said."

    outputs = [recognised, before, after, note]
    gradio.on([send.click, question.submit], ask, question, [*outputs, history], show_progress="hidden", **PRIVATE)
    afresh.click(start_afresh, None, outputs, show_progress="hidden", **PRIVATE)


def _requests(actions: Actions) -> tuple[Any, Any]:
    boxes = gradio.CheckboxGroup(
        label="Requests that are on", info="In this conversation only, which starts afresh with every change.",
        choices=actions.names(), value=actions.on(), elem_id="requests",
    )  # fmt: skip
    status = gradio.Markdown(actions.requests_line(), elem_id="requests-status")
    undo = gradio.Button("Undo the last request for good", variant="stop", size="md", elem_id="undo")
    asked = gradio.State("")
    with gradio.Column(visible=False, elem_classes="danger-note") as sure:
        sentence = gradio.Markdown(elem_id="sure")
        with gradio.Row():
            yes = gradio.Button("Yes, undo it", variant="stop", size="md")
            no = gradio.Button("No, leave it", size="md")

    @_said
    def ask_first() -> tuple[Any, str, str]:
        name = actions.last()
        told = f"Take `{name}` back in the ledger itself? The model will answer its questions again."
        return gradio.Column(visible=True), told, name

    @_said
    def undone(name: str) -> tuple[Any, Any, str]:
        said = actions.undo(name)
        return gradio.Column(visible=False), _choices(actions), said

    boxes.input(_said(actions.switch), boxes, status, show_progress="hidden", **PRIVATE)
    undo.click(ask_first, None, [sure, sentence, asked], show_progress="hidden", **PRIVATE)
    yes.click(undone, asked, [sure, boxes, status], **PRIVATE)
    no.click(lambda: gradio.Column(visible=False), None, sure, show_progress="hidden", **PRIVATE)
    return boxes, status


def _draft(actions: Actions, boxes: Any, requests_status: Any) -> None:
    gradio.Markdown(DRAFT)
    with gradio.Row():
        about = gradio.Textbox(label="A name", placeholder="Whom or what the questions shall be about", scale=5)
        make = gradio.Button("Make questions", scale=1, min_width=140, elem_classes="beside")
    questions = gradio.Textbox(label="Questions to forget, one per line", lines=5, max_lines=15, elem_id="questions")
    tried = gradio.Button("Try", variant="primary")
    status = gradio.Markdown(elem_id="draft-status")
    with gradio.Column(visible=False) as results:
        asked = gradio.Dataframe(
            label="The drafted questions", headers=ROWS, column_widths=WIDTHS, elem_id="asked", **_TABLE
        )
        changed = gradio.Dataframe(
            label="Questions near them that change", headers=ROWS, column_widths=WIDTHS, elem_id="changed", **_TABLE
        )
        with gradio.Row():
            name = gradio.Textbox(
                label="Name of the request", placeholder="ticket-12; must not name what is forgotten", scale=5
            )
            done = gradio.Button("Commit", variant="primary", scale=1, min_width=140, elem_classes="beside")

    @_said
    def candidates(text: str, progress: Any = gradio.Progress()) -> tuple[str, str]:  # noqa: B008 (Gradio's way)
        return actions.candidates(text, _bar(progress)), "Look through the questions, then try them."

    @_said
    def try_out(text: str, progress: Any = gradio.Progress()) -> tuple[str, Any, Any, Any]:  # noqa: B008
        found = actions.try_out(text, _bar(progress))
        rows = [list(row) for row in found.asked]
        others = gradio.Dataframe([list(row) for row in found.changed], visible=bool(found.changed))
        return found.summary, gradio.Column(visible=True), rows, others

    @_said
    def commit(text: str, called: str, progress: Any = gradio.Progress()) -> tuple[str, Any, Any, str]:  # noqa: B008
        said = actions.commit(text, called, _bar(progress))
        return said, gradio.Column(visible=False), _choices(actions), actions.requests_line()

    make.click(candidates, about, [questions, status], show_progress_on=status, **PRIVATE)
    tried.click(try_out, questions, [status, results, asked, changed], show_progress_on=status, **PRIVATE)
    done.click(commit, [questions, name], [status, results, boxes, requests_status], show_progress_on=status, **PRIVATE)


_TABLE: dict[str, Any] = {"interactive": False, "wrap": True, "datatype": "str", "type": "array", "buttons": []}
"""Of every table: plain text, which the models wrote and nothing reads as a language for pages."""


def _plain(name: str) -> str:
    """A folder's name where Markdown is read."""
    return "".join(letter if letter.isalnum() or letter in " " else f"&#{ord(letter)};" for letter in name)


def _choices(actions: Actions) -> Any:
    return gradio.CheckboxGroup(choices=actions.names(), value=actions.on())


def _bar(progress: Any) -> Callable[[str, int, int], None]:
    return lambda stage, done, total: progress((done, total) if total else None, desc=stage)


def _said(action: Callable[..., Any]) -> Callable[..., Any]:
    """The action, with what the library refuses said in a note on the page, which stays as it was."""
    from inspect import isgeneratorfunction

    if isgeneratorfunction(action):

        @wraps(action)
        def stream(*given: Any, **named: Any) -> Iterator[Any]:
            try:
                yield from action(*given, **named)
            except LunarError as error:
                gradio.Warning(str(error), title="Not done", duration=None)
                yield gradio.skip()

        return stream

    @wraps(action)
    def once(*given: Any, **named: Any) -> Any:
        try:
            return action(*given, **named)
        except LunarError as error:
            gradio.Warning(str(error), title="Not done", duration=None)
            return gradio.skip()

    return once
