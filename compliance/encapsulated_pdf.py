"""An encapsulated PDF made anew from what can be read of it, or refused: nothing that no one can read travels on.

Invariants
- What leaves is a new file: pages with their text, lines and fonts. Metadata, XMP, outlines, tags, earlier revisions, objects that no page
  needs and bytes outside the file's structure are not copied, so nothing can hide there.
- What cannot be read is not judged: images (for a person), forms, annotations, actions and scripts, attachments, layers, encryption, fonts
  without a way from glyph to letter, and drawings that could be letters refuse the document.
- Text is never changed: where identity, or what looks like it, stands in it, the document is refused.
- The new file is read back by the same rules before it is given out.

PS3.3 A.45.1 (Encapsulated PDF IOD); PS3.15 Table E.1-1 has D for Encapsulated Document (0042,0011): the new file replaces the old one.
Runs where hostile bytes may be parsed: in the limited child (deid_child.py).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

from pypdf import PageObject, PdfReader, PdfWriter
from pypdf.generic import ContentStream, DictionaryObject, NameObject, NumberObject, PdfObject, RectangleObject, StreamObject

from compliance.free_text import TextCleaner
from compliance.name_forms import fold_term
from crypto.errors import RefusedContent

PDF_BYTES_MAX = 64 << 20
PAGES_MAX = 500
#: Letters drawn as outlines are slanted and curved; the rules of a table are not. A word of four letters has more such strokes than this.
SLANTED_STROKES_MAX = 24
_OBJECTS_MAX = 50_000
_FORM_DEPTH_MAX = 8
_TAG = "(0042,0011)"
#: What a page keeps; everything else a page can carry shows nothing that is read here.
_PAGE_KEYS = ("/Type", "/MediaBox", "/CropBox", "/Rotate", "/Resources", "/Contents", "/UserUnit")
_RESOURCE_KEYS = ("/Font", "/XObject", "/ExtGState", "/ColorSpace")
_FONT_KEYS = ("/Type", "/Subtype", "/BaseFont", "/Encoding", "/ToUnicode", "/FirstChar", "/LastChar", "/Widths", "/FontDescriptor",
              "/DescendantFonts", "/CIDSystemInfo", "/DW", "/W", "/DW2", "/W2", "/CIDToGIDMap")  # fmt: skip
_NAMED_ENCODINGS = ("/WinAnsiEncoding", "/MacRomanEncoding", "/StandardEncoding")
#: Words of identity shorter than this occur by chance in text without its blanks.
_SQUEEZED_MIN = 5


def proved_pdf(data: bytes, cleaner: TextCleaner, words: Callable[[], list[str]]) -> bytes:
    """A PDF of the same pages in which nothing of `words`, the study's identity, nor a generic pattern of identity is left to read.

    Raises: RefusedContent; `reason_code` ENCAPSULATED_IMAGES where a person has to look, ENCAPSULATED_IDENTITY, ENCAPSULATED_DOCUMENT.
    """
    if len(data) > PDF_BYTES_MAX or not data.startswith(b"%PDF-"):
        raise _refused("not a PDF, or larger than one may be")
    try:
        made = _rewritten(data)
        if "/Info" in PdfReader(io.BytesIO(made)).trailer:
            raise _refused("metadata would remain")
        for reader in (PdfReader(io.BytesIO(data)), PdfReader(io.BytesIO(made))):
            _read_all(reader, cleaner, words)
    except RefusedContent:
        raise
    except MemoryError:
        raise _refused("reading it takes more memory than it may") from None
    except Exception:
        # Whatever a parser stumbles over, of whatever kind: what cannot be read is not passed, and its text may quote the document.
        raise _refused("it is not a PDF that can be read") from None
    return made


def _refused(why: str, reason: str = "ENCAPSULATED_DOCUMENT") -> RefusedContent:
    return RefusedContent(reason, why, tag=_TAG)


def _rewritten(data: bytes) -> bytes:
    reader = PdfReader(io.BytesIO(data), strict=True)
    if reader.is_encrypted:
        raise _refused("it is encrypted")
    root: Any = reader.trailer["/Root"]
    for key, what in (("/AcroForm", "a form"), ("/OpenAction", "an action"), ("/AA", "an action"), ("/OCProperties", "layers"),
                      ("/AF", "attachments"), ("/Collection", "attachments"), ("/Perms", "a signature")):  # fmt: skip
        if key in root:
            raise _refused(f"it holds {what}")
    names = root.get("/Names")
    if names is not None and any(key in names.get_object() for key in ("/EmbeddedFiles", "/JavaScript", "/Renditions")):
        raise _refused("it holds attachments or scripts")
    if not 0 < len(reader.pages) <= PAGES_MAX:
        raise _refused(f"it has no page, or more than {PAGES_MAX}")
    writer = PdfWriter()
    for page in reader.pages:
        if page.get("/Annots") is not None and len(page["/Annots"].get_object()):  # type: ignore[arg-type]
            raise _refused("it holds annotations")
        if "/AA" in page:
            raise _refused("it holds an action")
        bare = PageObject(None)
        for key in _PAGE_KEYS:
            if key in page:
                bare[NameObject(key)] = page[key]
        # Inherited values are not in the page's own dictionary.
        bare[NameObject("/MediaBox")] = RectangleObject(page.mediabox)
        bare[NameObject("/CropBox")] = RectangleObject(page.cropbox)
        bare[NameObject("/Rotate")] = NumberObject(page.rotation)
        resources = page.get("/Resources")
        bare[NameObject("/Resources")] = _kept_resources(resources.get_object() if resources is not None else DictionaryObject(), 0)
        contents = page.get_contents()
        stream = StreamObject()
        stream.set_data(contents.get_data() if contents is not None else b"")
        bare[NameObject("/Contents")] = stream.flate_encode()
        writer.add_page(bare)
    writer.metadata = None
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def _kept_resources(resources: Any, depth: int) -> DictionaryObject:
    kept = DictionaryObject()
    if depth > _FORM_DEPTH_MAX:
        raise _refused("its forms are nested too deep")
    if any(key in resources for key in ("/Pattern", "/Shading")):
        raise _refused("it holds patterns, which can be pictures", "ENCAPSULATED_IMAGES")
    for key in _RESOURCE_KEYS:
        if key not in resources:
            continue
        group = resources[key].get_object()
        if key == "/Font":
            kept[NameObject(key)] = DictionaryObject({NameObject(name): _kept_font(group[name].get_object()) for name in group})
        elif key == "/XObject":
            kept[NameObject(key)] = DictionaryObject({NameObject(name): _kept_form(group[name].get_object(), depth) for name in group})
        elif key == "/ExtGState":
            kept[NameObject(key)] = DictionaryObject({NameObject(name): _numbers_of(group[name].get_object()) for name in group})
    return kept


def _numbers_of(state: Any) -> DictionaryObject:
    """A graphics state without its masks and fonts: line widths, alpha and the like."""
    return DictionaryObject({NameObject(key): value for key, value in state.items() if key in ("/LW", "/LC", "/LJ", "/ML", "/CA", "/ca")})


def _kept_form(form: Any, depth: int) -> StreamObject:
    if form.get("/Subtype") == "/Image":
        raise _refused("it holds images: a person has to look at them", "ENCAPSULATED_IMAGES")
    if form.get("/Subtype") != "/Form" or "/OC" in form:
        raise _refused("it holds an object that is neither text nor image")
    kept = StreamObject()
    kept.set_data(form.get_data())
    for key in ("/Type", "/Subtype", "/BBox", "/Matrix"):
        if key in form:
            kept[NameObject(key)] = form[key]
    inner = form.get("/Resources")
    kept[NameObject("/Resources")] = _kept_resources(inner.get_object() if inner is not None else DictionaryObject(), depth + 1)
    return kept.flate_encode()


def _kept_font(font: Any) -> DictionaryObject:
    """The font without what a viewer does not need. Raises where its glyphs cannot be told from each other."""
    if font.get("/Subtype") == "/Type3":
        raise _refused("it holds a font whose letters are drawings")
    encoding = font.get("/Encoding")
    encoding = encoding.get_object() if encoding is not None else None
    base = encoding.get("/BaseEncoding") if isinstance(encoding, DictionaryObject) else encoding
    is_simple = font.get("/Subtype") in ("/Type1", "/TrueType", "/MMType1")
    is_standard = is_simple and "/FontFile" not in font.get("/FontDescriptor", DictionaryObject()).get_object() and encoding is None
    if "/ToUnicode" not in font and base not in _NAMED_ENCODINGS and not (is_standard and "/FontDescriptor" not in font):
        raise _refused("it holds a font whose letters cannot be read")
    return DictionaryObject({NameObject(key): font[key] for key in _FONT_KEYS if key in font})


def _read_all(reader: PdfReader, cleaner: TextCleaner, words: Callable[[], list[str]]) -> None:
    """Every text of every page is free of identity, and nothing is drawn that could be letters."""
    searched = [word for text in words() if len(word := _squeezed(text)) >= _SQUEEZED_MIN]
    whole = []
    for page in reader.pages:
        strokes = sum(_slanted_strokes(stream, reader) for stream in _streams(page, 0))
        if strokes > SLANTED_STROKES_MAX:
            raise _refused("it holds drawings that could be letters")
        for text in (page.extract_text(), page.extract_text(extraction_mode="layout")):
            if any(char == "\ufffd" or "\ue000" <= char <= "\uf8ff" for char in text):
                raise _refused("it holds letters that cannot be read")
            for one in (text, " ".join(text.split())):
                result = cleaner.clean(one)
                if result.removed or result.is_doubtful:
                    raise _refused("its text names somebody, or may", "ENCAPSULATED_IDENTITY")
            whole.append(_squeezed(text))
    if any(word in text for word in searched for text in whole):
        raise _refused("its text names somebody", "ENCAPSULATED_IDENTITY")


def _squeezed(text: str) -> str:
    return "".join(filter(str.isalnum, fold_term(text)))


def _streams(page: Any, depth: int) -> Iterator[PdfObject]:
    """The content of a page and of every form it can draw."""
    if isinstance(page, PageObject):
        contents = page.get_contents()
        if contents is not None:
            yield contents
    resources = page.get("/Resources")
    forms = resources.get_object().get("/XObject") if resources is not None else None
    if depth <= _FORM_DEPTH_MAX and forms is not None:
        for form in forms.get_object().values():
            yield form.get_object()
            yield from _streams(form.get_object(), depth + 1)


def _slanted_strokes(stream: Any, reader: PdfReader) -> int:
    content = stream if isinstance(stream, ContentStream) else ContentStream(stream, reader)
    count, at = 0, (0.0, 0.0)
    for number, (operands, operator) in enumerate(content.operations):
        if number > _OBJECTS_MAX:
            raise _refused("a page of it is larger than a page may be")
        if operator in (b"INLINE IMAGE", b"BI"):
            raise _refused("it holds images: a person has to look at them", "ENCAPSULATED_IMAGES")
        if operator in (b"sh", b"d0", b"d1"):
            raise _refused("it holds drawings that could be letters")
        if operator in (b"c", b"v", b"y"):
            count += 1
        elif operator in (b"m", b"l") and len(operands) == 2:
            to = (float(operands[0]), float(operands[1]))
            count += operator == b"l" and abs(to[0] - at[0]) > 0.01 and abs(to[1] - at[1]) > 0.01
            at = to
    return count
