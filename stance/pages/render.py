"""Templates and number formats that all pages share."""

from functools import cache
from pathlib import Path
from typing import get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stance.data.questions import Stance
from stance.language.messages import sentence
from stance.language.translation import LANGUAGES, Language, _, listed, ngettext, spoken, word

STANCES = get_args(Stance)
LINKS, SHEET = "languages.html.j2", "page.css"
CATALOGUE = Path(__file__).with_name("zh_TW.po")


def render(template: Path, **values: object) -> str:
    """Fill a template in the language of now; a name that it uses and that is not given is an error."""
    return _environment(template.parent, spoken()).get_template(template.name).render(values, stances=STANCES)


@cache
def _environment(folder: Path, language: Language) -> Environment:
    """Return the environment that compiles the templates of a folder once.

    Each language has its own, because Jinja may translate a constant while it compiles.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        extensions=["jinja2.ext.i18n"],
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.install_gettext_callables(_, ngettext, newstyle=True)  # type: ignore[attr-defined]
    environment.filters |= {"percent": percent, "signed": signed, "sentence": sentence}
    environment.filters |= {"word": word, "listed": listed, "translated": _}
    environment.globals |= {"language": language, "languages": LANGUAGES, "links": LINKS, "sheet": SHEET}
    return environment


def percent(share: float) -> str:
    """Return a share as people read it: 0.95 as 95%."""
    return f"{share:.0%}"


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign."""
    return _with_minus(f"{value:+.{digits}f}")


def short(value: float) -> str:
    """Return a number in three significant digits."""
    return _with_minus(f"{value:.3g}")


def _with_minus(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}")
