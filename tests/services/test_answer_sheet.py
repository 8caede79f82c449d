"""The answer sheet for the course, printed by the system's own browser."""

import re
import unicodedata

from stance.course.answer_sheet import answer_sheet
from tests.unit.course.test_answer_sheet import HOSTILE, made, write

__all__ = ["made"]  # a fixture


def test_a_browser_prints_each_run_on_pages_of_its_own_with_numbers(made, tmp_path):
    from pypdf import PdfReader

    other = write(tmp_path / "course-2", *["真人版失去感染力。" * 8] * 30, pairs__support_ratio=0)
    answer_sheet("b09901000", [made, other], tmp_path / "b09901000.pdf")
    pages = [plain(sheet.extract_text()) for sheet in PdfReader(tmp_path / "b09901000.pdf").pages]
    assert len(pages) >= 3
    assert all(f"{number}/{len(pages)}" in text and "b09901000" in text for number, text in enumerate(pages, start=1))
    assert all(plain(text) in pages[0] for text in ("真人版更好。", HOSTILE, "（空白）", "support_ratio1", "course-1"))
    assert "失去感染力" not in pages[0]
    assert "support_ratio0" in pages[1]
    assert "course-2" in pages[1]
    assert "".join(pages[1:]).count(plain("真人版失去感染力。" * 8)) == 30
    assert all("response_from_trained_model" in text for text in pages), "every page says what its columns are"


def plain(text: str) -> str:
    """Return a text without its line breaks, and with its characters for radicals, which a PDF has for ideographs."""
    return re.sub(r"\s", "", unicodedata.normalize("NFKC", text))
