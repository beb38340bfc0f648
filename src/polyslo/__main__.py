"""`python -m polyslo`: the command line."""

from polyslo.cli.main import main

if __name__ == "__main__":
    main()
