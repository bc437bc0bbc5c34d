"""`python -m lunar` is `lunar`."""

from lunar.cli import main

main()
