"""The length that a system prompt allows an answer, read out of its wording in Chinese or English.

In: a system prompt such as 回覆請少於20字 or "Reply in fewer than 20 words." Out: a `Limit` in characters or in words.
"""

import re
from typing import Literal, NamedTuple

Unit = Literal["characters", "words"]
DIGITS = {"零": 0} | {digit: value for value, digit in enumerate("〇一二三四五六七八九")} | {"兩": 2}
TENS = {"十": 10, "百": 100}
NUMERAL = "".join((*DIGITS, *TENS))
SPELLED = {"ten": 10, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60}
HAN_NUMBER = rf"(\d[\d,]*|(?<![{NUMERAL}千萬])[{NUMERAL}]+)\s*個?\s*"
LATIN_NUMBER = rf"(\d[\d,]*|{'|'.join(SPELLED)})[ -](?:\w+ )?"
LENGTHS: dict[Unit, tuple[str, str]] = {
    "characters": (rf"{HAN_NUMBER}(?:中文|漢|國)?字", rf"{LATIN_NUMBER}char(?:acter)?s?\b"),
    "words": (rf"{HAN_NUMBER}(?:英文)?(?:單字|單詞|詞)", rf"{LATIN_NUMBER}words?\b"),
}
"""How a length is written in Chinese and in English."""
FORMS = (
    (r"(?<![不勿別])(?<!不[得可要能應宜])(?:少於|低於|小於|不到|不足)\s*{han}", -1),
    (r"(?:(?:[不勿別]|不[得可要能應宜]|避免)(?:超過|多於)|至多|最多|上限[為是]?)\s*{han}", 0),
    (r"(?<![不無])限(?:制|定)?[在於為]?\s*{han}(?!元?以上)", 0),
    (r"{han}[元符]?(?:以內|之內|以下|內)", 0),
    (r"(?<!no )(?<!not )(?:fewer than|less than|under|below) {latin}", -1),
    (r"(?:at most|(?:no|not) (?:more|longer) than|(?:not|never) exceed|up to|within|limit[a-z ]* to) {latin}", 0),
    (r"max(?:imum)?\.?(?: of| is|:)? {latin}", 0),
    (r"{latin} (?:or (?:less|fewer)|at most|max(?:imum)?|limit)\b", 0),
)
"""Wordings of a limit, and what to add to their number: *fewer than 20* allows 19."""
LIMITS = tuple(
    (re.compile(form.format(han=han, latin=latin), re.IGNORECASE), more, unit)
    for unit, (han, latin) in LENGTHS.items()
    for form, more in FORMS
)


class Limit(NamedTuple):
    """The greatest length of an answer."""

    number: int
    unit: Unit

    def exceeded_by(self, text: str) -> bool:
        """Is a text longer? Words are what spaces part, as a person counts them."""
        return len(text if self.unit == "characters" else text.split()) > self.number


def length_limit(system_prompt: str) -> Limit | None:
    """Return the limit that a system prompt sets, the smallest of several, or None."""
    limits = [
        Limit(_number(match[1]) + more, unit)
        for pattern, more, unit in LIMITS
        for match in pattern.finditer(system_prompt)
    ]
    return min(limits, default=None)


def _number(numeral: str) -> int:
    if numeral.lower() in SPELLED:
        return SPELLED[numeral.lower()]
    if numeral[0].isdecimal():
        return int(numeral.replace(",", ""))
    total, digits = 0, 0
    for sign in numeral:
        if sign in TENS:
            total, digits = total + (digits or 1) * TENS[sign], 0
        else:
            digits = 10 * digits + DIGITS[sign]
    return total + digits
