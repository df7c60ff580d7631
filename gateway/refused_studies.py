"""Why a reader's list is empty: the open studies that are not theirs, counted by reason. Nothing else of them is told.

What routing decided is counted; nothing is decided anew. A reason is the reader's own business (licence, cover, privileges); of what
concerns the patient or the hospital only the kind is told, without the detail that could tell one study from another.
"""

from __future__ import annotations

from collections import Counter

from sqlmodel import Session, col, select

from compliance.lawbook import LawBundle
from gateway.reason_words import reason_sentence
from gateway.web.contexts import Reason, RefusedStudies
from worklist.procedure_step import State
from worklist.routed_reader import ELIGIBLE, RoutedReader
from worklist.unclaimed import following_reasons, telling
from worklist.workitem import ProcedureStep

_REASONS_MAX = 8
#: Of these the part after the colon is a fact about the reader and may be said to them.
_OWN = ("CRED_",)


def refused_studies(session: Session, law: LawBundle, reader_id: str) -> RefusedStudies | None:
    """None where no study waits that this reader may not read."""
    counts: Counter[str] = Counter()
    studies, following = 0, following_reasons(law)
    for reasons in session.exec(
        select(RoutedReader.reasons)
        .join(ProcedureStep, col(ProcedureStep.study_pk) == RoutedReader.study_pk)
        .where(
            RoutedReader.reader_id == reader_id,
            RoutedReader.outcome != ELIGIBLE,
            ProcedureStep.state == State.SCHEDULED,
            col(ProcedureStep.is_addendum).is_(False),
        )
    ).all():
        studies += 1
        counts.update({told_of(reason) for reason in telling(reasons, following)})
    if not studies:
        return None
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_REASONS_MAX]
    return RefusedStudies(
        studies, tuple(Reason(code, f"{count} {'study' if count == 1 else 'studies'}: {reason_sentence(code)}") for code, count in ordered)
    )


def told_of(reason: str) -> str:
    """The reason as it may be told to somebody who may not read the study."""
    return reason if reason.startswith(_OWN) else reason.partition(":")[0]
