"""`python -m stance new NAME` writes a data set to begin with, and a profile whose sizes fit it.

In: a name and a language; or, with `--refit`, a data set that was edited. Out: `data/sources/NAME` and
`profiles/NAME.yaml`. Nothing that exists is overwritten; `--refit` changes only the lines with sizes.

The sizes are the number of questions to train on, and the tokens of an answer and of a conversation. The tokens are
an estimate for any tokenizer: a token stands for two bytes or more.
"""

import re
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml

from stance.config.profiles import PROFILES, compose
from stance.data.questions import LABELLED, TEST, Prompt, Question, read_both
from stance.errors import InputError
from stance.language.detect import language_of, words
from stance.language.translation import CHINESE, ENGLISH, _, speaking
from stance.machine.files import parse_yaml, read_json, write_json

SOURCES = Path("data/sources")
TEMPLATES = Path(__file__).parent / "templates"
CATALOGUE = Path(__file__).parents[1] / "pages/zh_TW.po"
LANGUAGES = {"en": "en.json", "zh-Hant": "zh-Hant.json"}
NAME = re.compile(r"[A-Za-z0-9][\w-]*")
HELD_OUT = 6
"""One question of so many is held out of training, to measure the margin on it."""
BYTES_PER_TOKEN = 2
ROOM = 1.5
"""How much longer than the longest labelled answer an answer may be before it is cut off."""
PROFILE_HELP = "the profile to start from (default: smollm2-135m for questions in English, miniature for others)"
SIZES = ("pairs.data_size", "train.max_length", "answers.max_new_tokens")


def require_new(name: str) -> None:
    """Refuse a name that is no file name, or that a data set or a profile has.

    Raises:
        InputError: The name cannot be taken.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot name a data set; use letters, digits, - and _, and start with a letter or digit"
        )
    for path in (SOURCES / name, PROFILES / f"{name}.yaml"):
        if path.exists():
            raise InputError(
                f"{path} exists, and nothing is overwritten; choose another name, or type `python -m stance new "
                f"{name} --refit` to fit the sizes to data that you have edited"
            )


def fitting_sizes(questions: Sequence[Question], prompts: Sequence[Prompt]) -> dict[str, int]:
    """Return the parameters whose values depend on the data: how many questions to train on, and tokens."""
    answers = [text for row in questions for text in (row.support, row.oppose, row.neutral) if text]
    answer = _round(ROOM * max(map(tokens, answers)), 20, least=60)
    question = max(tokens(row.prompt) for row in (*questions, *prompts))
    return {
        "pairs.data_size": max(1, len(questions) - len(questions) // HELD_OUT),
        "train.max_length": _round(question + answer + 128, 128, least=512),  # 128: system prompt and template
        "answers.max_new_tokens": answer,
    }


def tokens(text: str) -> int:
    """Return about how many tokens a text takes at most."""
    return len(text.encode()) // BYTES_PER_TOKEN + 1


def _round(value: float, step: int, least: int) -> int:
    """Return a value rounded up to a multiple of `step`."""
    return max(least, -(-int(value) // step) * step)


def system_prompt_for(questions: Sequence[Question]) -> str:
    """Return a system prompt in the language of the questions that asks for answers as long as theirs."""
    answers = [text for row in questions for text in (row.support, row.oppose)]
    language = language_of(answers)
    if language == "zh_Hant":
        return f"回覆請少於{_round(max(map(len, answers)), 10, least=20)}字"
    if language == "en":
        return f"Reply in fewer than {_round(max(len(words(text)) + 1 for text in answers), 10, least=20)} words."
    return "Reply briefly, in the language of the question."


def profile_for(questions: Sequence[Question]) -> str:
    """Return the profile whose model reads the language of the questions and needs neither a GPU nor a download."""
    return "smollm2-135m" if language_of([row.support for row in questions]) == "en" else "miniature"


def start(name: str, questions: Sequence[Question], prompts: Sequence[Prompt], profile: str | None) -> None:
    """Write a data set and its profile, and print what comes next.

    Args:
        name: The name of both.
        questions: The training questions.
        prompts: The test prompts.
        profile: The profile to start from. None stands for the one that `profile_for` returns.

    Raises:
        InputError: There is no such profile.
    """
    folder, path = SOURCES / name, PROFILES / f"{name}.yaml"
    profile, system_prompt = profile or profile_for(questions), system_prompt_for(questions)
    asides = compose(profile)["dataset"].get("side_effects")
    dataset = {"source": "folder", "path": str(folder), "probes": None, "side_effects": asides}
    changes = {"model.system_prompt": system_prompt, **fitting_sizes(questions, prompts)}
    compose(profile, {"dataset": dataset, **changes})  # refuses what is wrong before anything is written
    text = (PROFILES / f"{profile}.yaml").read_text(encoding="utf-8")
    text = with_values(with_block(text, "dataset", dataset), changes)
    head = f"# The data set {name}, from the profile {profile}.\n# Run it: `make profile NAME={name} && make repro`\n"
    folder.mkdir(parents=True)
    write_json(folder / LABELLED, [row.model_dump(exclude_none=True) for row in questions])
    write_json(folder / TEST, [row.model_dump(exclude_none=True) for row in prompts])
    with path.open("x", encoding="utf-8") as file:
        file.write(head + re.sub(r"\A(#.*\n)*", "", text))
    _say_next(name, questions, profile)


def _say_next(name: str, questions: Sequence[Question], profile: str) -> None:
    """Print what was written and what comes next, in the language of the questions."""
    folder, path, prompt = SOURCES / name, PROFILES / f"{name}.yaml", system_prompt_for(questions)
    refit, choose = f"`.venv/bin/python -m stance new {name} --refit`", f"`make profile NAME={name}`"
    with speech_of(questions):
        text = _("{folder} holds {labelled} and {test}; {path} holds the parameters that fit them")
        print(text.format(folder=folder, labelled=LABELLED, test=TEST, path=path))
        text = _("system prompt: {prompt}; the other parameters are those of the profile {profile}")
        print(text.format(prompt=prompt, profile=profile))
        text = _("next: edit the two files, then run {refit}, {profile}, {check} and {repro}, one after the other")
        print(text.format(refit=refit, profile=choose, check="`make preflight`", repro="`make repro`"))


def speech_of(questions: Sequence[Question]) -> AbstractContextManager[None]:
    """Return a block in which the language of questions is spoken: Chinese, or English for all others."""
    language = CHINESE if language_of([row.support for row in questions]) == "zh_Hant" else ENGLISH
    return speaking(language, CATALOGUE)


def refit(name: str, params: Path = Path("params.yaml")) -> None:
    """Write the sizes that fit a data set into its profile, and into `params.yaml` if that is the profile.

    Raises:
        InputError: The data set or its profile does not exist or is wrong.
    """
    path = PROFILES / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"{path} does not exist; `python -m stance new {name}` writes it with a new data set")
    before = path.read_text(encoding="utf-8")
    values = parse_yaml(before.encode(), path)
    folder = Path(values.get("dataset", {}).get("path") or SOURCES / name)
    sizes = fitting_sizes(*read_both(folder))
    after = with_values(before, sizes)
    if params.is_file() and params.read_text(encoding="utf-8") == before:
        params.write_text(after, encoding="utf-8")
    path.write_text(after, encoding="utf-8")
    print(f"{path}: " + ", ".join(f"{key} {value}" for key, value in sizes.items()))


def with_values(text: str, changes: Mapping[str, Any]) -> str:
    """Return the text of a profile with other values on the lines of some keys; comments and order stay."""
    for key, value in changes.items():
        block, leaf = key.split(".")
        line = yaml.safe_dump({leaf: value}, allow_unicode=True, width=10**6).rstrip("\n")
        match = re.search(rf"(?m)^{block}:[^\n]*\n(?:(?:[ #][^\n]*)?\n)*?  ({leaf}:[^\n]*)$", text)
        if not match:
            raise InputError(f"the profile has no line {leaf} in the block {block}; correct it")
        text = text[: match.start(1)] + line + text[match.end(1) :]
    return text


def with_block(text: str, block: str, values: Mapping[str, Any]) -> str:
    """Return the text of a profile with another block; the rest stays."""
    lines = yaml.safe_dump({block: dict(values)}, allow_unicode=True, sort_keys=False)
    return re.sub(rf"(?m)^{block}:[^\n]*\n(?:[ ]+[^\n]*\n)*", lambda _: lines, text, count=1)


def template(language: str) -> tuple[list[Question], list[Prompt]]:
    """Return the questions and test prompts to begin with, in a language of `LANGUAGES`."""
    values = read_json(TEMPLATES / LANGUAGES[language])
    questions = [Question.model_validate(row) for row in values[LABELLED]]
    return questions, [Prompt.model_validate(row) for row in values[TEST]]


def main() -> None:
    """Write a data set to begin with: `python -m stance new NAME`."""
    parser = ArgumentParser(
        prog="python -m stance new",
        description=f"Write a data set to edit to {SOURCES}/NAME, and a profile that fits it to {PROFILES}/NAME.yaml.",
    )
    parser.add_argument("name", help="letters, digits, - and _")
    parser.add_argument("--language", choices=tuple(LANGUAGES), default="en", help="(default: %(default)s)")
    parser.add_argument("--profile", help=PROFILE_HELP)
    parser.add_argument("--refit", action="store_true", help="write the sizes of the edited data into its profile")
    options = parser.parse_args()
    if options.refit:
        refit(options.name)
        return
    require_new(options.name)
    questions, prompts = template(options.language)
    start(options.name, questions, prompts, options.profile)
