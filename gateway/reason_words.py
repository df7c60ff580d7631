"""Sentences for people about constant reason codes; the code itself always stands beside its sentence.

Reasons of the decision engine are `HEAD` or `HEAD:detail` (compliance/gates.py, requirement.py). A code without a sentence here is shown
in its own words: a missing sentence hides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_CREDENTIALS = {
    "LICENCE": "licence",
    "SPECIALTY": "specialty",
    "PRIVILEGE": "privilege at the hospital",
    "COVER": "malpractice cover",
    "REGISTRATION": "entry in the register",
    "BOARD": "board certification",
    "EXCLUSION_CHECK": "check of the exclusion lists",
}
_STATES = {
    "MISSING": "is not on file",
    "EXPIRED": "has expired",
    "NOT_YET_VALID": "does not hold yet",
    "SUSPENDED": "is suspended",
    "REVOKED": "was revoked",
    "LAPSED": "has lapsed",
    "EXCLUDED": "says: excluded",
    "UNVERIFIED": "was not verified with its issuer in time",
    "INCOMPLETE": "is on file with gaps",
}
_DECISION = {
    "FACT_MISSING": "A fact is not known",
    "FACT_STALE": "A fact was seen too long ago",
    "FACT_FUTURE": "A clock is wrong: a fact lies in the future",
    "JURISDICTION_UNKNOWN": "No law is on file for this place",
    "NO_TRANSFER_MECHANISM": "No mechanism on file lets the images go there",
    "NO_STORAGE_MECHANISM": "No mechanism on file lets the images be kept there",
    "CONSENT_MISSING": "The patient's consent is not on file",
    "CONSENT_WITHDRAWN": "The patient withdrew the consent",
    "CONSENT_REFUSED": "The patient refused",
    "CONSENT_EXPIRED": "The patient's consent has expired",
    "CONSENT_NOT_YET_GIVEN": "The patient's consent begins later",
    "LOCATION_CONFLICT": "The address of the login and the declared country do not agree",
    "LOCATION_MASKED": "The network hides where the reader is",
    "LOGIN_SECOND_FACTOR_MISSING": "The login has no second factor",
    "LOGIN_DEVICE_NOT_ATTESTED": "The device is not enrolled",
    "CRED_RULE_MISSING": "The law on file names no licence for this place",
    "CRED_HOSPITAL_POLICY": "The hospital asks for a register the reader is not in",
    "RULE_DRAFT": "A rule is not confirmed yet, so a person decides",
    "BREAK_GLASS": "Opened under the emergency rule",
    "NOT_EVALUATED": "Nothing could be asked without the facts before it",
    "OBLIGATION_UNMET": "What the law asks in return is not kept here",
    "STORAGE_ELSEWHERE": "The vault stands elsewhere than agreed with the hospital",
    "RIGHTS_NOT_DECIDABLE": "What is on file contradicts itself, so nothing could be decided and the claim was ended; call the operator",
    "LAW_SAYS_NO": "The law does not let the report leave",
    "FINAL_READER_REQUIRED": "This step needs a reader who may sign finally",
}
_ACTS = {
    "NOT_YOUR_CLAIM": "Your claim has ended. Claim the study again; your text is kept.",
    "SIGNING_LOCKED": "Too many wrong passphrases. Signing is locked for a quarter of an hour.",
    "DRAFT_MOVED_ON": "A newer draft was saved in another window. Copy your text and load the page again.",
    "MOVED_ON": "The draft or the study changed while it was being signed. Check the text again.",
    "TRANSACTION_UID_WRONG": "The claim was made elsewhere. Claim the study again.",
    "TOO_MANY_OPEN_CLAIMS": "You hold as many studies as one reader may. Finish or release one first.",
    "NOT_YOUR_REPORT": "An addendum or correction is for the reader of the report.",
    "STUDY_IN_WORK": "Somebody works on this study.",
    "NOT_FINAL_YET": "There is no final report to add to.",
    "ALREADY_FINAL": "A final report is followed by an addendum or a correction.",
    "NOT_AN_ADDENDUM": "Begin the addendum from the signed report.",
    "wrong-passphrase": "The passphrase is not the one of your signing key.",
    "section-missing": "A section that this kind of report needs is empty.",
    "control-character": "The text holds a character that cannot be signed: invisible, or one that no printer shows.",
    "text-too-long": "A section is too long.",
    "CSRF": "The form was not made by this session. Load the page again.",
    "ROLE": "This page is for somebody else.",
    "NOT_A_DEAD_LETTER": "It is on its way already.",
    "REVIEW_OVERDUE": "An emergency access of yours waits for its review for too long. The privacy officer has to settle it first.",
    "BREAK_GLASS_LIMIT": "You used emergency access as often as one reader may in 24 hours.",
    "SECOND_FACTOR_REFUSED": "The code is wrong or was used before. Wait for the next one.",
    "CLOCK_BACKWARDS": "The gateway's clock is wrong, so nothing is decided. Tell the operator.",
    "ALREADY_SETTLED": "Somebody has decided this already.",
    "CHANGED_MEANWHILE": "Other images are held now. Load the page again and look at them.",
    "EVIDENCE_EXISTS": "There is evidence of that name already.",
    "ALREADY_IN_PROGRESS": "Somebody else claimed it first.",
    "MAY_NO_LONGER_BE_UPDATED": "This step has ended. Look at the worklist again.",
    "LEASE_EXPIRED": "Your claim ran out. Claim the study again; your text is kept.",
    "RELEASED_BY_READER": "You gave this study back.",
}


def reason_sentence(code: str) -> str:
    """A sentence about a reason of the decision engine."""
    head, _, detail = code.partition(":")
    tail = f" ({detail})." if detail else "."
    found = re.fullmatch(r"CRED_([A-Z_]+?)_(" + "|".join(_STATES) + r")", head)
    if found is not None and found[1] in _CREDENTIALS:
        return f"The {_CREDENTIALS[found[1]]} {_STATES[found[2]]}{tail}"
    found = re.fullmatch(r"EVIDENCE_(" + "|".join(_STATES) + r")", head)
    if found is not None:
        return f"A required document {_STATES[found[1]]}{tail}"
    if head in _DECISION:
        return _DECISION[head] + tail
    # What is left are ids of rules; the explanation of the decision names their source.
    return f"The rule {head} is not met{tail}"


def refusal_sentence(code: str) -> str:
    """A sentence about why an act was refused, or "" where there is nothing to say beyond the kind of the error."""
    if code in _ACTS:
        return _ACTS[code]
    head = code.partition(":")[0]
    is_of_a_decision = head in _DECISION or head.startswith(("CRED_", "EVIDENCE_"))
    return reason_sentence(code) if is_of_a_decision else ""


#: Reason of quarantine -> (what happened, what to do). What was found is never repeated: it is what must not be shown.
_HELD: Mapping[str, tuple[str, str]] = {
    "DUPLICATE_UID_DIFFERENT_CONTENT": (
        "Two instances came under one SOP Instance UID with different content. Both are kept.",
        "Say which of the two is right, or reject the study and send it again under new UIDs.",
    ),
    "SEVERAL_PATIENT_IDS": (
        "The instances of this study name different patients. A report could reach the wrong one.",
        "Correct the patient at the sender, then send the study again under a new Study Instance UID, and reject this one.",
    ),
    "SEVERAL_STUDIES": ("The instances belong to different studies.", "Correct them at the sender and send them again; reject these."),
    "PATIENT_ID_MISSING": (
        "The study has no Patient ID, so a report could not find its patient.",
        "Add the Patient ID at the sender, send the study again, and reject this one.",
    ),
    "SEVERAL_PATIENTS": (
        "The instances of this study agree on the Patient ID and not on the person: name, birth date, sex or issuer differ.",
        "Find out whose images they are. Correct them at the sender, send them under a new Study Instance UID, and reject this one.",
    ),
    "ORDER_OF_ANOTHER_PATIENT": (
        "The order with this study's accession number is for another patient.",
        "Correct the order or the study at its source. When a right order was sent, try again; otherwise reject this one.",
    ),
    "SERIES_IN_TWO_STUDIES": (
        "A series of this study came before, under another study.",
        "Correct the series at the sender and send it under new UIDs; reject this one.",
    ),
    "INSTANCE_IN_TWO_STUDIES": (
        "An instance of this study came before, under another study.",
        "Correct it at the sender and send it under new UIDs; reject this one.",
    ),
    "MISSING_UID": (
        "An instance does not name itself, its series or its study.",
        "Correct it at the sender and send the study again; reject this one.",
    ),
    "UID_MISMATCH": (
        "An instance came under another name than the one it gives itself.",
        "Correct it at the sender and send the study again; reject this one.",
    ),
    "REJECTED_STUDY_CAME_AGAIN": (
        "This study was rejected before, and instances of it came again.",
        "Try again if they are to be read after all, or reject them too.",
    ),
    "INTEGRITY_FAILURE": (
        "Something stored of this study does not open, or is not what was stored.",
        "Ask the operator to run readgate fsck and to mend what it names, then try again; or send the study again.",
    ),
    "RESOURCES_EXHAUSTED": (
        "The gateway could not process the study for lack of room or of a service it needs. Nothing of it is lost.",
        "Ask the operator to make room, then try again.",
    ),
    "RESIDUAL_IDENTITY": (
        "After de-identification something was left that names the patient, so the result was thrown away.",
        "Correct the element that is named at the sender and send it again, or reject it.",
    ),
    "STORE_DENIED": (
        "The law, or what was agreed with the hospital, does not let this study be kept where this gateway keeps studies.",
        "The reasons stand with the decision in the log. Ask the privacy officer; once what is missing is on file, try again.",
    ),
    "ENCAPSULATED_IMAGES": (
        "The PDF holds images or drawings, which do not travel: nothing here can tell whether they show a name, or a finding.",
        "Look at the document with your own viewer. Send it again as text alone, or reject it and send its findings another way.",
    ),
    "ENCAPSULATED_IDENTITY": (
        "The text of the PDF names the patient, staff, or somebody else, visibly or not. Its words are never changed.",
        "Send it again without names, or reject it: the images of the study do not wait for it.",
    ),
    "ENCAPSULATED_DOCUMENT": (
        "The document is of a kind, or holds something, that cannot be read to its end: only plain, upright text of a PDF can be proved.",
        "Reject it, or send its text again as a plain PDF without names.",
    ),
    "PIXEL_SYNTAX_REFUSED": (
        "The pixels came in a form, such as video, of which nothing here can tell what it holds beside pictures.",
        "Send them again in another transfer syntax, frame by frame and not as a video, or reject them.",
    ),
    "PIXEL_UNDECODABLE": (
        "The compressed pixels cannot be read to their end, or hold a part that belongs to no picture.",
        "Look at them with your own viewer. Send them again in another transfer syntax, or reject them.",
    ),
    "TEXT_IN_MANY_FRAMES": (
        "So many frames of a clip hold something like text of their own that not all of them were read.",
        "Look through the clip, and blank where the text changes from frame to frame; or reject it.",
    ),
    "WORKER_DIED": (
        "The process that read the image died of it, twice. Nothing else was harmed, and the original is kept.",
        "Look at the image with your own viewer: it is broken, or made to break programs. Send it again mended, or reject it.",
    ),
    "WORKER_LATE": (
        "Reading the image took longer than any image may take.",
        "Try again when the gateway is less busy. If it happens again, treat the image as broken: reject it or send it again mended.",
    ),
    "WORKER_LIMIT": (
        "Reading the image takes more memory than an image of its size may take.",
        "Look at the image with your own viewer: what it holds may be far larger than what was sent. Send it again mended, or reject it.",
    ),
    "PROCESSING_FAILED": (
        "The study could not be processed, for a reason of the gateway's own. Nothing of it is lost.",
        "Ask the operator to look at the log, then try again.",
    ),
}
_HELD_PIXELS = (
    "The images may show who the patient is: text in the pixels could not be read with certainty or could not be removed.",
    "Look at the images where that is offered, and blank what names somebody; or send them again without it, or reject them.",
)
_HELD_OTHER = (
    "The study could not be de-identified with proof, so nothing of it was passed on.",
    "Correct the element that is named at the sender and send the study again, or reject it. Trying again helps after a change here.",
)


def held_words(reason_code: str) -> tuple[str, str]:
    """(what happened, what to do) for a reason of quarantine."""
    if reason_code in _HELD:
        return _HELD[reason_code]
    is_of_pixels = any(word in reason_code for word in ("BURNED", "PIXEL", "OCR", "TEXT_", "OVERLAY", "VISUAL"))
    return _HELD_PIXELS if is_of_pixels else _HELD_OTHER
