"""Several methods on one request, measured alike: ours, the baselines and the controls.

    for cell in compare_methods(loaded, Request(forget, retain, reference, splits), ["shift", "npo"], folder):
        print(cell["method"], cell["deviation_score"])

In the order of the data: `request.py` is what is asked, `methods.py` who is asked, `tuning.py` chooses their settings,
`run.py` runs them, `measurement.py` measures what they made, `kept.py` keeps what is finished.
"""

from lunar.comparison.methods import METHODS, OURS, UNTOUCHED, method
from lunar.comparison.request import Request
from lunar.comparison.run import compare_methods, run_cell, with_forget_quality
from lunar.comparison.tuning import search, search_all, validation_request

__all__ = [
    "METHODS",
    "OURS",
    "UNTOUCHED",
    "Request",
    "compare_methods",
    "method",
    "run_cell",
    "search",
    "search_all",
    "validation_request",
    "with_forget_quality",
]
