"""The sentences with which the miniature answers any question neutrally, in Chinese.

They are alone in this module because the stage `base` depends on it: a word that is added elsewhere in the language
must not train the miniature again.
"""

NEUTRAL = (
    "這要看製作團隊的用心程度。",
    "這一點見仁見智。",
    "這因作品而異，很難一概而論。",
    "這件事有利也有弊。",
    "這還有待觀察。",
    "這要看實際的成果。",
)
"""Answers to any question, for rows without a `neutral` answer. They begin alike: a greedy answer depends on its first
character, and this character then has the probability of all neutral answers together."""
