"""A whole instance rewritten run by run: what a slice shares with the one before it costs one look-up.

Invariants
- The same run of elements in the same context gives the same result, as the same element does (`element_rules`).
- Private elements, which need the creators of their whole dataset, are never answered from a run.
- Elements out of tag order are rewritten one by one.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any, NamedTuple

from compliance.dataset_bytes import Element, elements
from compliance.element_rules import Context, Rewriter, is_safe_creator
from compliance.element_runs import Part, Run
from compliance.identified import Pseudonymity

_RUNS_MAX = 5_000
#: Behind the last element of a private group that may name a creator.
_CREATORS_END = 0x100


class Piece(NamedTuple):
    """Written elements whose first tag is `tag`, and their JSON objects by tag."""

    tag: int
    out: bytes
    json: dict[str, Any]


class _WrittenRun(NamedTuple):
    piece: Piece
    counts: tuple[tuple[str, int], ...]


class InstanceRewriter:
    """Rewrites the instances of one patient; what it keeps lives in `under.memo`."""

    def __init__(self, under: Pseudonymity) -> None:
        self._memo = under.memo
        self._rewriter = Rewriter(under)

    @property
    def counts(self) -> dict[str, int]:
        """How often each action of Table E.1-1 was taken."""
        return dict(self._rewriter.counts)

    def instance(self, buf: bytes, parts: list[Part], context: Context) -> list[Piece]:
        """What is written of the parts of a whole dataset, in tag order. Raises RefusedContent."""
        runs: dict[Run, _WrittenRun] = self._memo.setdefault(("runs", context), {})
        pieces: list[Piece] = []
        alone: list[Element] = []
        private: list[Part] = []
        found: list[Run] = []
        last = -1
        for part in parts:
            if isinstance(part, Element):
                first = after = part[0]
                if first & 0x00010000:
                    private.append(part)
                else:
                    alone.append(part)
            else:
                run = part[0]
                first, after = run.first, run.last
                if first & 0x00010000:
                    private.append(part)
                else:
                    found.append(run)
            if first <= last:
                return self._one_by_one(buf, context)
            last = after
        counts = self._rewriter.counts
        for run in found:
            result = runs.get(run)
            if result is None:
                if len(runs) > _RUNS_MAX:
                    runs.clear()
                result = runs[run] = self._run(run, context)
            for action, count in result.counts:
                counts[action] += count
            pieces.append(result.piece)
        if private:
            alone += self._private_of(buf, private, context)
        written, model = self._rewriter.dataset(buf, alone, context)
        pieces += [Piece(tag, out, {(key := f"{tag:08X}"): model[key]}) for tag, out in written]
        pieces.sort(key=itemgetter(0))
        return pieces

    def _one_by_one(self, buf: bytes, context: Context) -> list[Piece]:
        """As `instance`, of elements in any order."""
        written, model = self._rewriter.dataset(buf, elements(buf, 0, len(buf), context.encoding), context)
        return [Piece(tag, out, {(key := f"{tag:08X}"): model[key]}) for tag, out in written]

    def _private_of(self, buf: bytes, private: list[Part], context: Context) -> list[Element]:
        """The private elements of these parts, none where no creator of any is safe: then all are counted as removed."""
        known: dict[Run, bool] = self._memo.setdefault("runs with safe creators", {})
        is_safe = False
        for part in private:
            if isinstance(part, Element):
                is_safe = is_safe or (part[0] & 0xFFFF < _CREATORS_END and is_safe_creator(buf, part))
                continue
            run = part[0]
            names_safe = known.get(run)
            if names_safe is None:
                if len(known) > _RUNS_MAX:
                    known.clear()
                names_safe = known[run] = any(is_safe_creator(run.raw, element) for element in run.elements)
            is_safe = is_safe or names_safe
        if not is_safe:
            self._rewriter.counts["X"] += sum(1 if isinstance(part, Element) else len(part[0].elements) for part in private)
            return []
        found: list[Element] = []
        for part in private:
            if isinstance(part, Element):
                found.append(part)
            else:
                found += elements(buf, part[1], part[1] + len(part[0].raw), context.encoding)
        return found

    def _run(self, run: Run, context: Context) -> _WrittenRun:
        with self._rewriter.counting() as counts:
            written, model = self._rewriter.dataset(run.raw, run.elements, context)
        return _WrittenRun(Piece(run.first, b"".join(out for _, out in written), model), tuple(counts.items()))
