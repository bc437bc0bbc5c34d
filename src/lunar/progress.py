"""How long work tells whoever watches how far it is; what shows it is `lunar.report.progress`."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, how much of it is done, and how much there is (0 if unknown)."""
