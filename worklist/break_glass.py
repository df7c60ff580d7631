"""Break-glass: an emergency in which a study is claimed although the patient's consent is not known, or out of turn.

0. The reason is one of REASON_CODES, with a text and the clinician at the hospital who asked for it.
1. The reader enters the second factor again (outside the claim's transaction: a wrong code counts as a failed login, whatever follows).
2. At most GLASSES_PER_DAY_MAX in 24 hours, none while an earlier one waits too long for its review; both looked at under the reader's lock.
3. The claim is decided with the emergency among its facts. It relaxes an unknown consent and the limits of the list, and nothing else:
   prohibitions, mechanisms, licences, exclusions and the login are asked as always (compliance/gates.py).
4. In the claim's transaction: the alert 110113 / 110127, the review due in 72 hours, the notice to the privacy officer. What is refused is
   an alert too.
5. It ends with the claim, however that ends, with the alert 110113 / 110138 (`end_claim`, `sign`).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import func
from sqlmodel import Session, col, select

from compliance.database import Database
from compliance.emergency_access import EmergencyAccess
from compliance.lawbook import LawBundle
from compliance.principal import Principal
from compliance.privacy_review import require_reviewed
from compliance.second_factor import require_second_factor
from compliance.study import Study
from crypto.errors import BadInput, NotAllowed
from crypto.keys import KeyStore
from worklist.claim import Claim, claim
from worklist.workitem import ProcedureStep

#: Reason -> what it means, for the form.
REASON_CODES = {
    "LIFE_THREATENING": "The patient's life is in danger",
    "LIMB_OR_ORGAN": "A limb or an organ is in danger",
    "UNCONSCIOUS": "The patient cannot be asked and cannot wait",
    "NO_OTHER_READER": "Nobody else can read in time",
}
GLASSES_PER_DAY_MAX = 3
_TEXT_CHARACTERS = (20, 500)
_NAME_CHARACTERS_MAX = 64


def break_glass(
    database: Database,
    keys: KeyStore,
    law: LawBundle,
    *,
    procedure_step_uid: str,
    reader_id: str,
    login_digest: str,
    transaction_uid: str,
    code: str,
    reason_code: str,
    text: str,
    requested_by: str,
    can_patient_consent: bool,
    now: datetime,
) -> Claim:
    """The reader holds the step under emergency access.

    Raises: BadInput (0.); NotAllowed: SECOND_FACTOR_REFUSED, BREAK_GLASS_LIMIT, REVIEW_OVERDUE, or the first reason of the decision;
    NotFound; Conflict as `claim`.
    """
    # 0.
    text, requested_by = " ".join(text.split()), " ".join(requested_by.split())
    _require_stated(reason_code, text, requested_by)
    # 1.
    require_second_factor(database, keys, principal_id=reader_id, code=code, purpose="BREAK_GLASS", now=now)

    # 2.
    def begin(session: Session, step: ProcedureStep, study: Study) -> EmergencyAccess:
        session.exec(select(Principal.principal_id).where(Principal.principal_id == reader_id).with_for_update()).one()
        require_reviewed(session, reader_id, now=now)
        if glasses_left(session, reader_id, now=now) <= 0:
            raise NotAllowed("BREAK_GLASS_LIMIT", f"at most {GLASSES_PER_DAY_MAX} in 24 hours")
        return EmergencyAccess(
            hospital_id=step.hospital_id,
            patient_pseudonym=study.patient_pseudonym,
            study_instance_uid=study.study_instance_uid,
            procedure_step_uid=step.procedure_step_uid,
            reader_id=reader_id,
            reason_code=reason_code,
            text=text,
            requested_by=requested_by,
            can_patient_consent=can_patient_consent,
            decision_digest="",
            started_at=now,
        )

    # 3. to 5.
    return claim(
        database,
        law,
        procedure_step_uid=procedure_step_uid,
        reader_id=reader_id,
        login_digest=login_digest,
        transaction_uid=transaction_uid,
        now=now,
        keys=keys,
        begin_emergency=begin,
    )


def glasses_left(session: Session, reader_id: str, *, now: datetime) -> int:
    """How often the reader may still break the glass; attempts that the law refused count too."""
    used = session.exec(
        select(func.count())
        .select_from(EmergencyAccess)
        .where(EmergencyAccess.reader_id == reader_id, col(EmergencyAccess.started_at) > now - timedelta(hours=24))
    ).one()
    return GLASSES_PER_DAY_MAX - used


def _require_stated(reason_code: str, text: str, requested_by: str) -> None:
    if reason_code not in REASON_CODES:
        raise BadInput(f"the reason is one of {', '.join(REASON_CODES)}")
    shortest, longest = _TEXT_CHARACTERS
    if not shortest <= len(text) <= longest:
        raise BadInput(f"the emergency is described in {shortest} to {longest} characters, without anything that names the patient")
    is_name = 0 < len(requested_by) <= _NAME_CHARACTERS_MAX and all(
        sign.isascii() and (sign.isalnum() or sign in "_.-") for sign in requested_by
    )
    if not is_name:
        raise BadInput("the clinician who asked is named by staff identifier: letters, digits, point, hyphen")
