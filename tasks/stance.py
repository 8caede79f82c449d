"""The earlier name of a command: `python -m tasks.stance FILE` does the same as `python -m stance label FILE`."""

from stance.errors import run
from stance.evaluation.validation import main

if __name__ == "__main__":
    run(main)
