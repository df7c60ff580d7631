"""Why nobody has claimed a study, in words and as JSON: counts alone, no reader is named."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlmodel import Session, select

from compliance.lawbook import LawBundle
from compliance.study import Study
from crypto.errors import NotFound
from gateway.reason_words import reason_sentence
from gateway.web.contexts import Reason
from worklist.unclaimed import BUSY, NOT_LOGGED_IN, Nearest, Unclaimed, why_unclaimed

_HELD_UP = {
    BUSY: "holds as many studies as one reader may",
    NOT_LOGGED_IN: "is not logged in",
    "REVIEW_OVERDUE": "waits for the review of an emergency access",
}


def own_study(session: Session, hospital_id: str | None, study_instance_uid: str) -> Study:
    """The study by its pseudonymous UID, of this hospital where one is given. Raises: NotFound."""
    study = session.exec(select(Study).where(Study.study_instance_uid == study_instance_uid)).first()
    if study is None or (hospital_id is not None and study.hospital_id != hospital_id):
        raise NotFound("no such study")
    return study


def why_unclaimed_document(session: Session, law: LawBundle, study: Study, *, now: datetime) -> dict[str, Any]:
    """For programs: the counts with their codes and their words; {"waiting": false} where no reader is waited for."""
    assert study.study_pk is not None
    found = why_unclaimed(session, law, study.study_pk, now=now)
    document: dict[str, Any] = {"study": study.study_instance_uid, "asked_at": now.isoformat(), "waiting": found is not None}
    if found is None:
        return document
    return {
        **document,
        "headline": found.headline,
        "waiting_since": found.waiting_since.isoformat(),
        "due_at": found.due_at.isoformat(),
        "is_overdue": found.due_at < now,
        "eligible": found.eligible,
        "ready": found.ready,
        "held_up": [{"code": code, "readers": count, "text": held_up_words(code, count)} for code, count in found.held_up.items()],
        "refused_readers": found.refused_readers,
        "refused": [{"code": code, "readers": count, "text": reason_sentence(code)} for code, count in found.refused.items()],
        "nearest": [{"readers": one.readers, "codes": list(one.reasons), "text": nearest_words(one)} for one in found.nearest],
    }


def held_up_words(code: str, count: int) -> str:
    """ "2 eligible readers: is not logged in" in a grammatical form."""
    words = _HELD_UP.get(code, code)
    if count != 1:
        words = words.replace("holds", "hold", 1).replace("is not", "are not", 1).replace("waits", "wait", 1)
    return f"{count} eligible {_readers(count)} {words}"


def nearest_words(nearest: Nearest) -> str:
    """What one more paper, credential or consent would change."""
    missing = " ".join(reason_sentence(code) for code in nearest.reasons)
    return (
        f"{nearest.readers} {_readers(nearest.readers)} could read it but for {'this' if len(nearest.reasons) == 1 else 'these'}: {missing}"
    )


def refused_reasons(found: Unclaimed, reasons_max: int = 8) -> tuple[Reason, ...]:
    """What stops the others: each reason with the number of readers it stops, the commonest first."""
    return tuple(
        Reason(code=code, text=f"{count} {_readers(count)}: {reason_sentence(code)}")
        for code, count in list(found.refused.items())[:reasons_max]
    )


def _readers(count: int) -> str:
    return "reader" if count == 1 else "readers"
