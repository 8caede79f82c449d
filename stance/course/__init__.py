"""The course's PDF of answers, and the total of its grading."""
