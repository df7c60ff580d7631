"""What is asked of an instance before its elements are rewritten, without parsing again what its series repeats."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, cached_property, lru_cache

from compliance.dataset_bytes import PIXEL_TAGS, Element
from compliance.device_masks import risk_tags
from compliance.element_runs import KeptRuns, Part
from compliance.transcode import PixelDescription
from crypto.errors import RefusedContent

#: From here on overlays and pixel data.
_GRAPHICS = 0x60000000
_SHORT_BYTES_MAX = 64
#: Besides its class of risk.
_ASKED = frozenset(
    {0x0020000D, 0x0020000E, 0x00080018, 0x00080016, 0x00080005, 0x00080060, 0x00100020, 0x00180015, 0x00420011, 0x00420012}
    | {0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103}
)
#: What the shape of an image is told by, in the order of `_shape`.
_SHAPE = (0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103)

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

    def __init__(self, payload: bytes, parts: list[Part], of_runs: KeptRuns[dict[int, _Fact]]) -> None:
        self.parts = parts
        self.has_graphics = False
        pixels: list[Element] = []
        self._known: dict[int, _Fact] = {}
        wanted = _wanted_tags()
        for part in parts:
            if isinstance(part, Element):
                tag = part[0]
                if tag in wanted:
                    self._known[tag] = _fact(payload, part)
                elif tag >= _GRAPHICS:
                    if tag in PIXEL_TAGS:
                        pixels.append(part)
                    self.has_graphics = self.has_graphics or tag >> 24 == 0x60
                continue
            known = of_runs.get(part[0])
            if known is None:
                run = part[0]
                known = of_runs.keep(run, {element.tag: _fact(run.raw, element) for element in run.elements if element.tag in wanted})
            if known:
                self._known.update(known)
        self.charset = tuple(part.strip() for part in (self.text(0x00080005) or "").split("\\"))
        self.pixel_elements = len(pixels)
        self.pixels = min(pixels, default=None)

    def __contains__(self, tag: int) -> bool:
        return tag in self._known

    def raw(self, tags: Iterable[int]) -> list[bytes | None]:
        """The bytes of these elements, None where one is not there."""
        known = self._known
        return [known[tag][0] if tag in known else None for tag in tags]

    def value(self, tag: int) -> bytes | None:
        fact = self._known.get(tag)
        return None if fact is None else fact[1]

    def text(self, tag: int) -> str | None:
        return _text(self.value(tag))

    def number(self, tag: int, default: int = 0) -> int:
        return _number(self.value(tag), default)

    @cached_property
    def shape(self) -> PixelDescription:
        """The Image Pixel Module. Raises RefusedContent where Number of Frames is no number."""
        tag, values = self.pixels.tag if self.pixels else 0, [self.value(one) for one in _SHAPE]
        # A longer value is no number, and is not kept for the next series.
        is_short = all(value is None or len(value) <= _SHORT_BYTES_MAX for value in values)
        return _shape(tag, *values) if is_short else _shape.__wrapped__(tag, *values)


@lru_cache(maxsize=256)
def _shape(
    tag: int, samples: bytes | None, photometric: bytes | None, planar: bytes | None, frames: bytes | None, rows: bytes | None,
    columns: bytes | None, allocated: bytes | None, stored: bytes | None, high_bit: bytes | None, sign: bytes | None,
) -> PixelDescription:  # fmt: skip
    """The description that these values of _SHAPE give; a series has one."""
    count = _text(frames) or "1"
    if not count.isdigit() or len(count) > 9:
        raise RefusedContent("IMPOSSIBLE_PIXELS", "Number of Frames is no number", tag="(0028,0008)")
    bits = {0x7FE00008: 32, 0x7FE00009: 64}.get(tag) or _number(allocated)
    bits_stored = _number(stored, bits)
    return PixelDescription(
        rows=_number(rows),
        columns=_number(columns),
        samples=_number(samples, 1),
        bits_allocated=bits,
        bits_stored=min(bits_stored, bits) or bits,
        high_bit=_number(high_bit, bits_stored - 1),
        is_signed=_number(sign) == 1,
        planar=_number(planar),
        photometric=_text(photometric) or "",
        frames=int(count),
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1").strip("\0 ")


def _number(value: bytes | None, default: int = 0) -> int:
    return default if value is None or len(value) < 2 else int.from_bytes(value[:2], "little")
