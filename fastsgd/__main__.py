"""`python -m fastsgd`: the command line."""

from fastsgd.cli import main

if __name__ == "__main__":
    main()
