"""`python -m stance import FILE NAME` makes a data set of a file that another project or program wrote.

In: a table in one of the forms of `stance.data.forms`. Out: `data/sources/NAME` with the two files of a data set, and
`profiles/NAME.yaml`, whose sizes fit the data. Nothing that exists is overwritten.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from stance.data.forms import FORMS, NAMES, Mapped, map_prompts, map_rows
from stance.data.questions import Prompt
from stance.data.starting import PROFILE_HELP, SOURCES, require_new, speech_of, start
from stance.data.tables import ENDINGS, read_table
from stance.errors import InputError
from stance.language.translation import _, ngettext
from stance.machine.files import first_problem

SHARE = 5
"""One question of so many becomes a test prompt, if no file of test prompts is named."""
MOST = 20
"""The largest number of questions that become test prompts by themselves."""


def convert(
    file: Path, chosen: str, columns: Mapping[str, str], test: Path | None, test_size: int | None
) -> tuple[Mapped, list[Prompt]]:
    """Return the questions in a file, and the test prompts: those of `test`, or the last questions of the file.

    Raises:
        InputError: A file cannot be read, its form is not known, or too few questions are left.
    """
    try:
        mapped = map_rows(read_table(file), "oppose" if chosen == "oppose" else "support", columns)
    except ValidationError as error:
        raise InputError(f"{file}: {first_problem(error, 'a row')}; correct the text") from None
    except InputError as error:
        raise InputError(f"{error}" if str(file) in str(error) else f"{file}: {error}") from None
    if test:
        texts = map_prompts(read_table(test), columns)
        return mapped, _numbered(texts)
    questions = mapped.questions
    size = test_size if test_size is not None else min(MOST, max(1, len(questions) // SHARE))
    if not 0 < size < len(questions):
        raise InputError(
            f"{file} has {len(questions)} questions, of which {size} were to become test prompts; expected at least "
            "one test prompt and one question: add questions, or name a file of test prompts with --test"
        )
    return mapped._replace(questions=questions[:-size]), _numbered([row.prompt for row in questions[-size:]])


def _numbered(texts: Sequence[str]) -> list[Prompt]:
    return [Prompt(id=number, prompt=text) for number, text in enumerate(texts, start=1)]


def report(file: Path, mapped: Mapped, prompts: Sequence[Prompt]) -> None:
    """Print what was read, and how many rows were left out and why, in the language of the questions."""
    with speech_of(mapped.questions):
        print(_("{file}: {form}").format(file=file, form=_(FORMS[mapped.form][1])))
        counts = {"questions": len(mapped.questions), "prompts": len(prompts)}
        print(_("{questions} questions and {prompts} test prompts").format(**counts))
        for reason, count in mapped.left_out.most_common():
            line = ngettext("left out: {count} row ({reason})", "left out: {count} rows ({reason})", count)
            print(line.format(count=count, reason=_(reason)))


def columns_of(assignments: Sequence[str]) -> dict[str, str]:
    """Return the names of columns in the file by what they hold, from texts like `support=PRO`."""
    pairs = [text.partition("=") for text in assignments]
    if wrong := [text for text, (key, _, name) in zip(assignments, pairs, strict=True) if key not in NAMES or not name]:
        raise InputError(f"{wrong[0]!r} names no column; expected KEY=COLUMN with a key of {', '.join(NAMES)}")
    return {key: name for key, _, name in pairs}


def arguments() -> Namespace:
    """Parse the command line."""
    forms = "; ".join(text for _, text, _ in FORMS.values())
    parser = ArgumentParser(
        prog="python -m stance import",
        description=f"Make a data set in {SOURCES}/NAME of a file ({', '.join(ENDINGS)}). Forms: {forms}.",
    )
    parser.add_argument("file", type=Path, help="the file with questions and answers")
    parser.add_argument("name", help="the name of the new data set: letters, digits, - and _")
    parser.add_argument("--test", type=Path, metavar="FILE", help="a file with the test prompts")
    parser.add_argument("--test-size", type=int, metavar="N", help="how many of the last questions become test prompts")
    parser.add_argument(
        "--chosen", choices=("support", "oppose"), default="support", help="the stance of the preferred answers"
    )
    parser.add_argument(
        "--columns", nargs="+", default=[], metavar="KEY=COLUMN", help="names of columns, for example support=PRO"
    )
    parser.add_argument("--profile", help=PROFILE_HELP)
    return parser.parse_args()


def main() -> None:
    """Import a file: `python -m stance import FILE NAME`."""
    options = arguments()
    require_new(options.name)
    columns = columns_of(options.columns)
    mapped, prompts = convert(options.file, options.chosen, columns, options.test, options.test_size)
    report(options.file, mapped, prompts)
    start(options.name, mapped.questions, prompts, options.profile)
