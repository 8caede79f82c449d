"""The list of commands: `python -m stance COMMAND`. `python -m stance COMMAND --help` explains one command."""

import sys
from importlib import import_module

from stance.errors import run

COMMANDS = {
    "preflight": ("stance.preflight.checks", "check parameters, data and machine before a run"),
    "footprint": ("stance.preflight.footprint", "show the memory and the disk space that each stage needs"),
    "new": ("stance.data.starting", "write a data set to begin with, and a profile that fits it"),
    "import": ("stance.data.importing", "make a data set of a file in the form of another project"),
    "profile": ("stance.config.profiles", "replace params.yaml by one of the profiles"),
    "label": ("stance.evaluation.validation", "label answers as support, neutral or oppose"),
    "ask": ("stance.client.ask", "ask the endpoint one question"),
    "batch": ("stance.client.batch", "ask the endpoint every question of a file"),
    "chat": ("stance.chat.command", "serve a web page to chat with the endpoint"),
    "rank": ("stance.ranking.command", "serve a web page to rank sampled answers"),
    "votes": ("stance.ranking.votes", "show, import or export votes, or let a model vote"),
    "serve": ("stance.serving.command", "serve a model behind an OpenAI-style endpoint, swap it, or stop"),
    "keys": ("stance.serving.keys", "make, list or revoke named keys of the endpoint"),
    "summary": ("stance.pages.summary", "show what came of the run in this folder, and what to do next"),
    "candidate": ("stance.serving.candidate", "check the files of a model that is to be served"),
    "runs": ("stance.runs.catalogue", "list, show, compare, apply or remove runs"),
    "recompute": ("stance.release.recomputation", "take the cheap measurements of a run again, and compare"),
    "push": ("stance.release.push", "push the adapter and the merged model of a run to the Hub"),
    "verify": ("stance.runs.verification", "check that a release, here or on the Hub, is what was signed"),
    "pdf": ("stance.course.answer_sheet", "print settings and answers for the course to a PDF"),
    "grade": ("stance.course.grade", "add up the scores of a grading conversation"),
}
"""For each command: the module whose `main` runs it, and what it does. Only the module of the command is imported."""


def usage() -> str:
    """Return the list of commands, one line each."""
    lines = [f"  {name:10} {description}" for name, (_, description) in COMMANDS.items()]
    return "\n".join(["usage: python -m stance COMMAND [ARGUMENTS]", "", *lines, "", "COMMAND --help says more."])


def main() -> None:
    """Run the command that the command line names."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(usage())
    elif command in COMMANDS:
        sys.argv = [f"python -m stance {command}", *arguments]
        run(import_module(COMMANDS[command][0]).main)
    else:
        print(
            f"error: there is no command {command!r}; expected one of {', '.join(COMMANDS)}: `python -m stance` "
            "describes them",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
