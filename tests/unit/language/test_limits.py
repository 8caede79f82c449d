"""How long an answer may be, by what the system prompt says."""

import pytest

from stance.language.limits import Limit, length_limit


@pytest.mark.parametrize(
    ("system_prompt", "limit"),
    [
        ("回覆請少於20字", 19),
        ("請用 30 字以內回答。", 30),
        ("不超過 50 個字", 50),
        ("不要超過20字", 20),
        ("不得超過20字", 20),
        ("請勿超過２０字元", 20),
        ("20個字元以內", 20),
        ("20個中文字以內", 20),
        ("二十字以內", 20),
        ("少於十字", 9),
        ("一百二十個字之內", 120),
        ("兩百零五字以下", 205),
        ("二〇字內", 20),
        ("限20字", 20),
        ("字數限制為 30 字", 30),
        ("上限為三十字", 30),
        ("最多 1,200 字", 1200),
        ("Answer in fewer than 80 characters.", 79),
        ("Answer in under 20 characters.", 19),
        ("No more than 20 characters.", 20),
        ("It must not exceed 30 Chinese characters.", 30),
        ("Use 20 characters or less.", 20),
        ("回覆要有禮貌", None),
        ("至少20字", None),
        ("不得少於20字", None),
        ("20字以上", None),
        ("不限20字", None),
        ("一千五百字以內", None),
        ("At least 20 characters, and no fewer than 20 characters.", None),
        ("More than 20 characters.", None),
        ("Under 20 pages.", None),
    ],
)
def test_the_limit_is_what_the_system_prompt_says(system_prompt, limit):
    assert length_limit(system_prompt) == (limit and Limit(limit, "characters"))


@pytest.mark.parametrize(
    ("system_prompt", "limit"),
    [
        ("Reply in fewer than 20 words.", 19),
        ("Answer in under 20 words.", 19),
        ("Use less than twenty words.", 19),
        ("At most 30 words, please.", 30),
        ("No more than 1,000 words.", 1000),
        ("Keep to a maximum of 25 English words.", 25),
        ("Max 25 words.", 25),
        ("Reply in 20 words or fewer.", 20),
        ("Stay within a 20-word limit.", 20),
        ("Limit your answer to 20 words.", 20),
        ("請少於20個單字", 19),
        ("不超過三十個英文單詞", 30),
        ("At least 20 words, and no fewer than 20 words.", None),
        ("More than 20 words.", None),
        ("Mind your words.", None),
    ],
)
def test_the_limit_may_be_in_words(system_prompt, limit):
    assert length_limit(system_prompt) == (limit and Limit(limit, "words"))


def test_the_smallest_of_several_limits_holds():
    assert length_limit("At most 50 words, better under 20 words.") == Limit(19, "words")


def test_a_text_exceeds_a_limit_in_its_own_unit():
    assert Limit(3, "words").exceeded_by("It isn't live-action now.")
    assert not Limit(4, "words").exceeded_by("It isn't live-action now.")
    assert Limit(3, "characters").exceeded_by("很好看！")
