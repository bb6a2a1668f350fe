"""`python -m fastsgd` is the command line."""

from fastsgd.cli import main

main()
