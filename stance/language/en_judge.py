"""What a language model is told in English when it judges an answer's stance: for every language but Chinese."""

from stance.language.inquiry import inquiry

ENGLISH = inquiry(
    task=(
        "You will read a question and an answer. Which stance does the answer take towards the topic of the question: "
        "support, neutral or oppose? Judge the stance towards the topic, not whether the answer says yes or no. An "
        "answer that names both sides or takes none is neutral. Reply with one of these words only."
    ),
    frame="Question: {}\nAnswer: {}",
    words={"support": "support", "neutral": "neutral", "oppose": "oppose"},
    named=r"\b(?:support|neutral|oppose)(?=s|d|\b)",
    denied=r"\b(?:not|isn't|doesn't|don't|never|no)\s+(?:\w+\s+)?",
)
