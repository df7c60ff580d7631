"""What is asked of an instance before its elements are rewritten, without parsing again what its series repeats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache, cached_property

from compliance.dataset_bytes import PIXEL_TAGS, Element
from compliance.device_masks import risk_tags
from compliance.element_runs import Part, Run
from compliance.transcode import PixelDescription
from crypto.errors import RefusedContent

_RUNS_MAX = 5_000
#: Besides its class of risk.
_ASKED = frozenset(
    {0x0020000D, 0x0020000E, 0x00080018, 0x00080016, 0x00080005, 0x00080060, 0x00100020, 0x00180015, 0x00420011, 0x00420012}
    | {0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103}
)

#: The bytes of an element and those of its value.
_Fact = tuple[bytes, bytes]


def _fact(buf: bytes, element: Element) -> _Fact:
    return buf[element.start : element.stop], buf[element.value : element.end]


@cache
def _wanted_tags() -> frozenset[int]:
    """All that `InstanceFacts` is asked for."""
    return frozenset(risk_tags()) | _ASKED


class InstanceFacts:
    """What is asked of the source before its elements are rewritten."""

    def __init__(self, payload: bytes, parts: list[Part], of_runs: dict[Run, dict[int, _Fact]]) -> None:
        self.parts = parts
        self.has_graphics = False
        pixels: list[Element] = []
        self._known: dict[int, _Fact] = {}
        wanted = _wanted_tags()
        for part in parts:
            if isinstance(part, Element):
                if part.tag in PIXEL_TAGS:
                    pixels.append(part)
                elif part.tag in wanted:
                    self._known[part.tag] = _fact(payload, part)
                self.has_graphics = self.has_graphics or part.tag >> 24 == 0x60
                continue
            known = of_runs.get(part[0])
            if known is None:
                if len(of_runs) > _RUNS_MAX:
                    of_runs.clear()
                run = part[0]
                known = of_runs[run] = {element.tag: _fact(run.raw, element) for element in run.elements if element.tag in wanted}
            if known:
                self._known.update(known)
        self.charset = tuple(part.strip() for part in (self.text(0x00080005) or "").split("\\"))
        self.pixel_elements = len(pixels)
        self.pixels = min(pixels, default=None)

    def __contains__(self, tag: int) -> bool:
        return tag in self._known

    def raw(self, tags: Iterable[int]) -> Iterator[bytes | None]:
        """The bytes of these elements, None where one is not there."""
        for tag in tags:
            fact = self._known.get(tag)
            yield None if fact is None else fact[0]

    def value(self, tag: int) -> bytes | None:
        fact = self._known.get(tag)
        return None if fact is None else fact[1]

    def text(self, tag: int) -> str | None:
        value = self.value(tag)
        return None if value is None else value.decode("latin-1").strip("\0 ")

    def number(self, tag: int, default: int = 0) -> int:
        value = self.value(tag)
        return default if value is None or len(value) < 2 else int.from_bytes(value[:2], "little")

    @cached_property
    def shape(self) -> PixelDescription:
        """The Image Pixel Module. Raises RefusedContent where Number of Frames is no number."""
        frames = self.text(0x00280008) or "1"
        if not frames.isdigit() or len(frames) > 9:
            raise RefusedContent("IMPOSSIBLE_PIXELS", "Number of Frames is no number", tag="(0028,0008)")
        bits = self.number(0x00280100)
        tag = self.pixels.tag if self.pixels else 0
        if tag in (0x7FE00008, 0x7FE00009):
            bits = 32 if tag == 0x7FE00008 else 64
        stored = self.number(0x00280101, bits)
        return PixelDescription(
            rows=self.number(0x00280010),
            columns=self.number(0x00280011),
            samples=self.number(0x00280002, 1),
            bits_allocated=bits,
            bits_stored=min(stored, bits) or bits,
            high_bit=self.number(0x00280102, stored - 1),
            is_signed=self.number(0x00280103) == 1,
            planar=self.number(0x00280006),
            photometric=self.text(0x00280004) or "",
            frames=int(frames),
        )
