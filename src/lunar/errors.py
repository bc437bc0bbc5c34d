"""The one exception for a caller's mistake.

Every message is one sentence that says what was expected, what came and what to do. The command line prints it and
exits with code 2; Python callers may catch it. It never contains the text of a forget prompt.
"""


class LunarError(ValueError):
    """Bad input: a file, a setting or a model that cannot be used as asked."""
