"""`python -m tasks.stance FILE`, the earlier name of `python -m stance label FILE`."""

from stance.errors import run
from stance.evaluation.validation import main

if __name__ == "__main__":
    run(main)
