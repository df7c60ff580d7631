"""An encapsulated PDF written anew from its text alone, or refused: nothing that was not read travels on.

Invariants
- What leaves is a new file of as many pages of the same size that holds the words, in their columns, and nothing else. No object, stream,
  font or byte of the source is copied, so nothing can hide in one: not in comments, marked content, maps, metadata or drawings.
- What a reader would miss refuses the document: images and drawings beyond a table's lines (for a person), letters that cannot be read,
  forms, annotations, scripts, attachments, layers, encryption.
- Words are never changed: where identity, or what looks like it, stands among them, visible or not, the document is refused.
- The new file is read back by other code and judged by the same rules before it is given out.

PS3.3 A.45.1 (Encapsulated PDF IOD); PS3.15 Table E.1-1 has D for Encapsulated Document (0042,0011): the new file replaces the old one.
Runs where hostile bytes may be parsed: in the limited child (deid_child.py).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

from pypdf import PdfReader

from compliance.free_text import TextCleaner
from compliance.name_forms import fold_term
from compliance.pdf_fonts import refused
from compliance.pdf_layout import PageText
from compliance.pdf_text import page_text
from compliance.pdf_writing import read_back, written_pdf
from crypto.errors import RefusedContent

PDF_BYTES_MAX = 64 << 20
PAGES_MAX = 500
#: Words of identity shorter than this occur by chance in text without its blanks.
_SQUEEZED_MIN = 5
#: Letters one by one, as no text but a name in a form is set.
_SPACED = re.compile(r"(?<!\w)(?:[^\W\d_] {1,3}){4,}[^\W\d_](?!\w)")


def proved_pdf(data: bytes, cleaner: TextCleaner, words: Callable[[], list[str]]) -> bytes:
    """A PDF of the same words in which nothing of `words`, the study's identity, nor a generic pattern of identity is left to read.

    Raises: RefusedContent; `reason_code` ENCAPSULATED_IMAGES where a person has to look, ENCAPSULATED_IDENTITY, ENCAPSULATED_DOCUMENT.
    """
    if len(data) > PDF_BYTES_MAX or not data.startswith(b"%PDF-"):
        raise refused("not a PDF, or larger than one may be")
    try:
        pages = _pages(data)
        searched = [word for text in words() if len(word := _squeezed(text)) >= _SQUEEZED_MIN]
        for page in pages:
            _judge("\n".join(line.text for line in page.lines), cleaner, searched)
            _judge_orders(page, searched)
        _judge_words(_squeezed("".join(line.text for page in pages for line in page.lines)), searched)
        made = written_pdf(pages)
        for text in read_back(made, pages):
            _judge(text, cleaner, searched)
    except RefusedContent:
        raise
    except MemoryError:
        raise refused("reading it takes more memory than it may") from None
    except Exception:
        # Whatever a parser stumbles over, of whatever kind: what cannot be read is not passed, and its text may quote the document.
        raise refused("it is not a PDF that can be read") from None
    return made


def _pages(data: bytes) -> list[PageText]:
    reader = PdfReader(io.BytesIO(data), strict=True)
    if reader.is_encrypted:
        raise refused("it is encrypted")
    root: Any = reader.trailer["/Root"]
    for key, what in (("/AcroForm", "a form"), ("/OpenAction", "an action"), ("/AA", "an action"), ("/OCProperties", "layers"),
                      ("/AF", "attachments"), ("/Collection", "attachments"), ("/Perms", "a signature")):  # fmt: skip
        if key in root:
            raise refused(f"it holds {what}")
    names = root.get("/Names")
    if names is not None and any(key in names.get_object() for key in ("/EmbeddedFiles", "/JavaScript", "/Renditions")):
        raise refused("it holds attachments or scripts")
    if not 0 < len(reader.pages) <= PAGES_MAX:
        raise refused(f"it has no page, or more than {PAGES_MAX}")
    pages = []
    for page in reader.pages:
        if page.get("/Annots") is not None and len(page["/Annots"].get_object()):  # type: ignore[arg-type]
            raise refused("it holds annotations")
        if "/AA" in page:
            raise refused("it holds an action")
        pages.append(page_text(page, reader))
    return pages


def _judge(text: str, cleaner: TextCleaner, searched: list[str]) -> None:
    """The text is free of identity, as it stands and without its lines and columns."""
    for one in (text, " ".join(text.split())):
        result = cleaner.clean(one)
        if result.removed or result.is_doubtful:
            raise refused("its text names somebody, or may", "ENCAPSULATED_IDENTITY")
    if _SPACED.search(text):
        raise refused("its text is set letter by letter, as a name may be", "ENCAPSULATED_IDENTITY")
    _judge_words(_squeezed(text), searched)


def _judge_orders(page: PageText, searched: list[str]) -> None:
    """No known word is read in the order of drawing, nor downward in a column of letters."""
    _judge_words(_squeezed(page.drawn), searched)
    for column in zip_longest(*(line.text for line in page.lines), fillvalue=""):
        _judge_words(_squeezed("".join(column)), searched)


def _judge_words(squeezed: str, searched: list[str]) -> None:
    if any(word in squeezed for word in searched):
        raise refused("its text names somebody", "ENCAPSULATED_IDENTITY")


def _squeezed(text: str) -> str:
    return "".join(filter(str.isalnum, fold_term(text)))
