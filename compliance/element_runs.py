"""The headers of a series as runs of elements that repeat byte for byte, so that a slice costs only what is new in it.

Invariants
- A run is parsed once by `dataset_bytes` and met again only where all of its bytes are: the parts of a dataset, joined, are its bytes, and
  parsing those anew would give the same elements.
- A run says what its bytes are, never what they mean: that depends on other elements (character set, private creator, SOP class), and
  whoever keeps something for a run keeps it together with all that it depends on.
- No run holds an element of the caller's `alone`, crosses one in tag order, holds public and private elements or two private groups, or is
  out of order.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable
from typing import Generic, TypeVar

from compliance.dataset_bytes import (
    ELEMENTS_BYTES_MIN,
    ELEMENTS_MAX,
    EXPLICIT_LITTLE,
    PIXEL_TAGS,
    Element,
    Encoding,
    element_at,
    require_few,
)
from compliance.memory_size import memory_of
from crypto.errors import RefusedContent

#: From here on overlays, curves and pixel data: never in a run.
_ALONE_FROM = 0x50000000
_ELEMENT_BYTES_MAX = 4096
_RUN_BYTES_MAX = 1 << 16
#: How the pixel data elements begin, in either byte order.
_PIXEL_HEADS = frozenset(struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) for tag in PIXEL_TAGS for order in "<>")
#: What is kept is bounded: an enemy's study learns from nothing and is parsed element by element.
_KEPT_BYTES_MAX = 1 << 21
_VARYING_MAX = 20_000
_OF_RUNS_MAX = 5_000
#: Of what is kept for runs, in memory: a series needs a fiftieth of it, a stranger's bytes can become twenty times as many.
KEPT_MEMORY_MAX = 5 * 1024 * 1024
_ELEMENT_MEMORY = 200
_Kept = TypeVar("_Kept")
_SHORT_HEADER_BYTES = 8
_new = tuple.__new__


class Run:
    """`elements` of consecutive tags from `first` to `last`, positions counted from the start of `raw`; compared by identity."""

    __slots__ = ("elements", "first", "last", "raw")

    def __init__(self, raw: bytes, elements: list[Element]) -> None:
        self.raw = raw
        self.elements = elements
        self.first = elements[0].tag
        self.last = elements[-1].tag


#: A run and where it starts, or an element on its own.
Part = tuple[Run, int] | Element


class RunParser:
    """Splits datasets of one encoding at their top level; each teaches it what varies in the next."""

    def __init__(self, encoding: Encoding, alone: Iterable[int] = ()) -> None:
        self.encoding = encoding
        self._alone = frozenset(alone)
        self._borders = sorted(self._alone)
        self._runs: dict[bytes, Run] = {}
        self._varying: set[int] = set()
        #: (tag, VR, length of value) of elements that always stand alone, by their header of eight bytes.
        self._heads: dict[bytes, tuple[int, str, int]] = {}
        self._kept_bytes = 0
        #: Whether the last dataset was read up to its pixel data and not to its end.
        self.met_pixels = False

    def parts(self, buf: bytes, *, before_pixels: bool = False) -> list[Part]:
        """All of `buf`, or what stands before pixel data, as parts in order. Raises RefusedContent as `dataset_bytes.elements` does."""
        found: list[Part] = []
        fresh: list[Element] = []
        self.met_pixels = False
        runs, varying, alone, encoding, pos, end = self._runs, self._varying, self._alone, self.encoding, 0, len(buf)
        heads = self._heads
        while pos < end:
            if len(found) + len(fresh) > ELEMENTS_MAX and end - pos > ELEMENTS_BYTES_MIN:
                require_few(len(found) + len(fresh))
            met = heads.get(buf[pos : pos + 8])
            if met is not None and pos + 8 + met[2] <= end:
                if fresh:
                    found.append(self._learned(buf, fresh))
                    fresh = []
                stop = pos + 8 + met[2]
                found.append(_new(Element, (met[0], met[1], pos, pos + 8, stop, stop, False)))
                pos = stop
                continue
            head = buf[pos : pos + 4]
            run = runs.get(head)
            if run is None and before_pixels and head in _PIXEL_HEADS:
                self.met_pixels = True
                break
            if run is not None:
                if fresh:
                    found.append(self._learned(buf, fresh))
                    fresh = []
                if not buf.startswith(run.raw, pos):
                    run = self._divided(run, buf, pos)
                if run is not None:
                    found.append((run, pos))
                    pos += len(run.raw)
                continue
            element = element_at(buf, pos, end, encoding)
            tag = element[0]
            is_alone = tag in varying or tag in alone or tag >= _ALONE_FROM or element[5] - pos > _ELEMENT_BYTES_MAX
            if fresh and (is_alone or not self._continues(fresh, element)):
                found.append(self._learned(buf, fresh))
                fresh = []
            if is_alone:
                found.append(element)
                self._note_head(buf, element)
            else:
                fresh.append(element)
            pos = element[5]
        if fresh:
            found.append(self._learned(buf, fresh))
        return found

    def _note_head(self, buf: bytes, element: Element) -> None:
        """An element that stands alone is known by its header from now on, where that says all there is to say of it."""
        tag, vr, start, value, end, _, undefined = element
        if self.encoding == EXPLICIT_LITTLE and value - start == _SHORT_HEADER_BYTES and not undefined and tag < _ALONE_FROM:
            if len(self._heads) > _OF_RUNS_MAX:
                self._heads.clear()
            self._heads[buf[start:value]] = tag, vr, end - value

    def _continues(self, fresh: list[Element], element: Element) -> bool:
        last, tag = fresh[-1].tag, element.tag
        if tag <= last or element.stop - fresh[0].start > _RUN_BYTES_MAX:
            return False
        if (tag | last) & 0x00010000 and tag >> 16 != last >> 16:
            return False
        return bisect_left(self._borders, tag) == bisect_left(self._borders, last)

    def _learned(self, buf: bytes, fresh: list[Element]) -> tuple[Run, int]:
        """The run of these elements, kept for the next dataset."""
        start = fresh[0].start
        run = _run(buf[start : fresh[-1].stop], fresh)
        if self._kept_bytes > _KEPT_BYTES_MAX or len(self._varying) > _VARYING_MAX:
            self._runs.clear()
            self._varying.clear()
            self._heads.clear()
            self._kept_bytes = 0
        self._keep(run)
        return run, start

    def _keep(self, run: Run) -> None:
        self._runs[run.raw[:4]] = run
        self._kept_bytes += len(run.raw)

    def _divided(self, run: Run, buf: bytes, pos: int) -> Run | None:
        """The front of `run` that stands at `pos`, None where not even its first element does; what differs will be parsed on its own."""
        del self._runs[run.raw[:4]]
        self._kept_bytes -= len(run.raw)
        count = 0
        while buf.startswith(run.raw[: run.elements[count].stop], pos):
            count += 1
        self._varying.add(run.elements[count].tag)
        if rest := run.elements[count + 1 :]:
            self._keep(_run(run.raw[rest[0].start :], rest))
        if not count:
            return None
        front = _run(run.raw[: run.elements[count - 1].stop], run.elements[:count])
        self._keep(front)
        return front


def _run(raw: bytes, elements: list[Element]) -> Run:
    start = elements[0].start
    if start:
        elements = [
            Element(tag, vr, first - start, value - start, end - start, stop - start, undefined)
            for tag, vr, first, value, end, stop, undefined in elements
        ]
    return Run(raw, elements)


class KeptRuns(dict[Run, _Kept], Generic[_Kept]):
    """What was worked out of runs: all of it is dropped where it becomes too much, by number or by memory."""

    def __init__(self) -> None:
        super().__init__()
        #: About what is kept takes, the runs themselves among it.
        self.memory = 0

    def keep(self, run: Run, known: _Kept) -> _Kept:
        """`known`, which is found under `run` from now on."""
        memory = len(run.raw) + _ELEMENT_MEMORY * len(run.elements) + memory_of(known)
        if len(self) >= _OF_RUNS_MAX or self.memory + memory > KEPT_MEMORY_MAX:
            self.clear()
            self.memory = 0
        self[run] = known
        self.memory += memory
        return known


class HeaderValues:
    """The values of a few top-level elements, from dataset after dataset; a run met before costs one look-up."""

    def __init__(self, wanted: Iterable[int]) -> None:
        self._wanted = frozenset(wanted)
        self._parsers: dict[Encoding, RunParser] = {}
        self._of_runs = KeptRuns[dict[int, bytes]]()

    def of(self, buf: bytes, encoding: Encoding, *, is_whole: bool = True) -> tuple[dict[int, bytes], list[Part]] | None:
        """(value by tag before pixel data, the parts there); None where not `is_whole` and `buf` may end before they do.

        Raises RefusedContent where what stands before pixel data does not parse.
        """
        parser = self._parsers.get(encoding)
        if parser is None:
            parser = self._parsers[encoding] = RunParser(encoding)
        try:
            parts = parser.parts(buf, before_pixels=True)
        except RefusedContent:
            if is_whole:
                raise
            return None
        if not is_whole and not parser.met_pixels:
            return None
        found: dict[int, bytes] = {}
        for part in parts:
            if isinstance(part, Element):
                if part.tag in self._wanted:
                    found[part.tag] = buf[part.value : part.end]
                continue
            run = part[0]
            known = self._of_runs.get(run)
            if known is None:
                known = self._of_runs.keep(run, {one.tag: run.raw[one.value : one.end] for one in run.elements if one.tag in self._wanted})
            if known:
                found.update(known)
        return found, parts
