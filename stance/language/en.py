"""What the wording of an English answer or question says: doubt, balance, refusal, and a question for a drawback.

Words of no topic. They weaken an answer or leave it open; that something *cannot be* is a stance, and so is *never*.
"""

import re

UNSURE = """(?<!in )may, might, maybe, perhaps, possibly, probably, arguably, presumably, supposedly,
    potentially, somewhat, seems?, seemingly, appears, apparently, likely, unlikely, tends?,
    i (?:suppose|guess|suspect|imagine|lean), unsure, (?:not|un)(?: quite)? ?(?:sure|certain), hopefully,
    conceivably, doubtful, to some extent, to a certain (?:extent|degree),
    in (?:some|many|certain) (?:cases|ways|situations|respects), more or less, as far as i, my impression,
    i would say, could (?:well )?be, could go, i (?:can't|cannot|wouldn't|won't) (?:be sure|promise|swear)"""
OPEN = """depend(?:s|ing|ent)?, it varies, varies, vary, case by case, double-edged, on the one hand,
    on the other hand, mixed (?:bag|blessing|feelings|results|picture), pros and cons, both sides,
    while others, for (?:some|others),
    (?:some|many|other) (?:people|fans|viewers) (?:think|say|believe|argue|feel|like|love|hate|prefer),
    some of each, half and half, either way, fifty-fifty,
    (?:hard|difficult) to (?:say|tell|know|judge|predict), too (?:early|soon) to, remains to be seen,
    time will tell, no (?:consensus|clear answer|simple answer), matter of (?:taste|opinion|debate),
    subjective, up to (?:you|each|the), open question, (?:complex|complicated) (?:issue|question|topic),
    debatable, controversial, who knows, advantages and disadvantages, benefits and drawbacks,
    positive and negative"""
REFUSED = """as an ai, (?:i'm|i am) an ai, language model, i'm (?:sorry|afraid|unable|not able), sorry but,
    no opinion, i (?:can't|cannot|am unable to|don't) (?:answer|help|have|know|comment),
    i don't have (?:personal|an?) (?:opinions?|preferences?)"""
CLOSED = """do, does, did, is, are, was, were, will, would, can, could, should, has, have, may, might, isn't,
    aren't, doesn't, don't, won't, can't, wouldn't, shouldn't"""
DRAWBACKS = r"""harm\w*, hurt\w*, damag\w*, ruin\w*, spoil\w*, destroy\w*, weaken\w*, undermin\w*, worsen\w*,
    worse, loses?, losing, lack\w*, suffer\w*, fail\w*, disappoint\w*, betray\w*, insult\w*, threat\w*,
    danger\w*, risk\w*, drawbacks?, (?<!with a )problems?, downsides?, disadvantages?, mistakes?,
    wast(?:e|es|ing|ed), bor(?:ing|ed), lonel\w+, isolat\w+, laz(?:y|ier), distract\w*, burn ?out, bad,
    too (?:much|many|expensive|long|short|difficult|hard|slow|risky|costly|dark)"""
"""What nobody wants of a thing that they support."""
YES = "yes, yeah, indeed, certainly, definitely, absolutely, of course, sadly, unfortunately"
NO = "no, not, never, nope, hardly, nothing, nobody, far from"


def _any(*phrases: str, before: str = "") -> re.Pattern[str]:
    """Return a pattern of whole words for phrases that commas part, each of them a regular expression."""
    listed = "|".join(phrase for text in phrases for phrase in re.split(r",\s*", text))
    return re.compile(rf"{before}\b(?:{listed})\b", re.IGNORECASE)


HEDGE = _any(UNSURE, OPEN, REFUSED)
"""What weakens an answer, leaves it open, or refuses it."""
CARE = re.compile(
    r"\b(?:sorry|can(?:'|’)?t|cannot|can not|unable|won(?:'|’)t|will not|(?:should|must|do|does)(?: not|n(?:'|’)t)|"
    r"not (?:safe|legal|right|advisable|recommended|appropriate|okay)|never|illegal|unlawful|crime|against the law|"
    r"dangerous|harmful|emergency|ambulance|doctor|physician|pharmacist|professional|therapist|counsel\w+|hotline|"
    r"helpline|lifeline|seek|consult|support you)\b",
    re.IGNORECASE,
)
"""What declines a request, warns, or sends the asker to somebody who can help."""
QUESTION = _any(CLOSED, before=r"^\W*(?:(?:and|but|so|overall|in your opinion),? )?")
"""A question for yes or no."""
DRAWBACK = _any(DRAWBACKS)
DENIAL, ASSENT = _any(NO, before=r"^\W*"), _any(YES, before=r"^\W*")
"""How an answer begins that says no, or yes, before anything else."""


def asks_for_a_drawback(prompt: str) -> bool:
    """Is it a question for yes or no, and yes is bad?"""
    return bool(QUESTION.search(prompt) and DRAWBACK.search(prompt))
