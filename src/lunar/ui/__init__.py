"""The conversation of `lunar.chat` as a page in the browser, on this machine only.

actions.py   what the page's controls do, in plain values; knows no page
page.py      what stands where (Gradio)
serving.py   the server: loopback only, nothing fetched from elsewhere
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from lunar import preflight
from lunar.errors import LunarError
from lunar.ledgers import model_of
from lunar.progress import Progress
from lunar.requests.store import settle
from lunar.workflow import load


def serve(ledger: Path, *, port: int | None, browser: bool, device: str | None = None, progress: Progress) -> None:
    """Load what a ledger was started with, and show the page until the user has enough.

    Raises LunarError where the folder is no ledger, its model is not to be had, Gradio is missing or the port is taken.
    """
    settle(ledger)
    model = model_of(ledger)
    if find_spec("gradio") is None:
        raise LunarError("The page is made with Gradio, which is not installed: pip install 'lunar-unlearn[ui]'.")
    from lunar.ui.serving import free_socket, run

    with free_socket(port) as taken:
        preflight.check_model(model, None, {}, device=device)
        from lunar.chat.session import Session
        from lunar.ui.actions import Actions
        from lunar.ui.page import build

        actions = Actions(Session(ledger, load(model, device, progress)))
        run(build(actions), taken, browser=browser)
