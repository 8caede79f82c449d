"""Every command of the project: `python -m stance COMMAND`; `python -m stance COMMAND --help` says more about one."""

import sys
from importlib import import_module

from stance.errors import run

COMMANDS = {
    "preflight": ("stance.preflight.checks", "check the parameters against data and machine, in seconds"),
    "footprint": ("stance.preflight.footprint", "show the memory and disk that each stage will take"),
    "profile": ("stance.config.profiles", "write params.yaml for another profile"),
    "label": ("stance.evaluation.validation", "label answers as support, neutral or oppose; validate the classifier"),
    "ask": ("stance.client.ask", "ask the endpoint one question"),
    "batch": ("stance.client.batch", "answer a file of requests in OpenAI's batch format"),
    "chat": ("stance.client.chat", "open a page to chat with the endpoint"),
    "serve": ("stance.serving.command", "serve a model; swap it, roll back, show the status or stop"),
    "candidate": ("stance.serving.candidate", "check a model before it is served"),
    "runs": ("stance.runs.catalogue", "list, show, compare, apply or remove runs"),
    "push": ("stance.release.push", "push a run's adapter and merged model to the Hub"),
    "pdf": ("stance.course.answer_sheet", "print settings and answers for the course to a PDF"),
    "grade": ("stance.course.grade", "add up the scores of a graded conversation"),
}
"""The module whose `main` runs a command, and what the command does. A module is imported when its command runs."""


def usage() -> str:
    """Return the list of commands, a line each."""
    lines = [f"  {name:10} {does}" for name, (_, does) in COMMANDS.items()]
    return "\n".join(["usage: python -m stance COMMAND [ARGUMENTS]", "", *lines])


def main() -> None:
    """Run the command that the command line names."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(usage())
    elif command in COMMANDS:
        sys.argv = [f"python -m stance {command}", *arguments]
        run(import_module(COMMANDS[command][0]).main)
    else:
        print(f"error: there is no command {command!r}; expected one of these\n\n{usage()}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
