"""The words facts are made of: which facts there are, of what type, and the closed lists their values come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ACTIONS = ("ROUTE", "STORE", "VIEW", "SIGN_PRELIMINARY", "SIGN_FINAL", "DELIVER")
#: Giving a hospital its own patient's report: no disclosure to anybody else, so that what a disclosure needs is not asked for again.
DELIVER = "DELIVER"
#: Actions nobody is logged in for: the login is not asked about.
ACTIONS_WITHOUT_LOGIN = frozenset({"ROUTE", "STORE", DELIVER})
#: Storing concerns a place, not a reader.
ACTIONS_WITHOUT_READER = frozenset({"STORE"})

ID_CLASSES = ("IDENTIFIED", "PSEUDONYMISED", "LIMITED_DATA_SET", "DEID_SAFE_HARBOR", "DEID_EXPERT", "ANONYMOUS")
IP_KINDS = ("RESIDENTIAL", "BUSINESS", "MOBILE", "EDUCATION", "HOSTING", "VPN", "PROXY", "TOR", "UNKNOWN")
CONSENT_STATUSES = ("NOT_REQUIRED", "ACTIVE", "REFUSED", "WITHDRAWN", "UNKNOWN")
CONSENT_KINDS = ("SHARING", "SEPARATE", "INFORMED", "TRANSFER")
CREDENTIAL_STATUSES = ("ACTIVE", "SUSPENDED", "REVOKED", "LAPSED", "EXCLUDED")
#: What a hospital or its system may carry. A register the hospital asks for of itself is REQUIRE_REGISTER:<register>.
FLAGS = _words(
    """NO_ONSITE_SPECIALIST STATUTORY_HEALTH_CLOUD HDS_REQUIRED CERTIFIED_EHR PUBLIC_BODY CONSENT_REQUIRED MEDICARE_ADVANTAGE PART2
    VETERANS_AFFAIRS DEFENSE_HEALTH TRICARE NHS CRITICAL_INFRASTRUCTURE DIFC ADGM DHCC IN_COUNTRY_HOSTING SIGNIFICANT_FIDUCIARY
    PROFESSIONAL_SECRECY REQUIRE_EXCLUSION_CHECK"""
)
REQUIRE_REGISTER = "REQUIRE_REGISTER:"


#: dotted name -> (type, required). Types: a tuple is a closed list; "code" a jurisdiction; "instant", "text", "name", "bool", "count",
#: "percent". `reader.citizenship` and `object.study` are recorded and no rule may ask for them.
FACT_TYPES: Mapping[str, tuple[Any, bool]] = {
    "at": ("instant", True),
    "action": (ACTIONS, True),
    "purpose": (("TREAT", "ETREAT"), True),
    "origin.hospital": ("name", True),
    "origin.jurisdiction": ("code", True),
    "origin.sector": (("PUBLIC", "PRIVATE"), True),
    "object.study": ("name", False),
    "object.kind": (("CURRENT", "PRIOR"), True),
    "object.provenance": (("HOSPITAL", "MY_HEALTH_RECORD", "IMPORTED", "PATIENT"), True),
    "object.modality": ("name", True),
    "object.body_part": ("text", False),
    "object.id_class": (ID_CLASSES, True),
    "patient.jurisdiction": ("code", True),
    "patient.us_person": ("bool", True),
    "patient.can_consent": ("bool", True),
    "payer.kind": (("PUBLIC", "COMMERCIAL", "MEDICARE", "MEDICAID", "SELF"), True),
    "storage.country": ("code", True),
    "reader.id": ("name", True),
    "reader.establishment": ("code", True),
    "reader.residence": ("code", True),
    "reader.citizenship": ("code", False),
    "reader.employer.id": ("name", True),
    "reader.employer.country": ("code", True),
    "reader.employer.kind": (("COMPANY", "PUBLIC_BODY", "NON_PROFIT", "INDIVIDUAL"), True),
    "reader.employer.role": (("PROCESSOR", "CONTROLLER", "EMPLOYEE"), True),
    "reader.employer.coc_ownership_pct": ("percent", True),
    "login.mfa": ("bool", True),
    "login.device_attested": ("bool", True),
    "login.declared_country": ("code", True),
    "login.ip_country": ("code", True),
    "login.ip_kind": (IP_KINDS, True),
    "login.observed_at": ("instant", True),
    "consent.status": (CONSENT_STATUSES, True),
    "consent.kind": (CONSENT_KINDS, False),
    "consent.version": ("count", False),
    "consent.given_at": ("instant", False),
    "consent.withdrawn_at": ("instant", False),
    # A limited consent says so twice, so that the loss of either field never widens it.
    "consent.term": (("UNLIMITED", "LIMITED"), False),
    "consent.expires": ("instant", False),
    "counters.us_persons_12_months": ("count", False),
    "counters.sensitive_persons_this_year": ("count", False),
    "break_glass.reason_code": ("name", False),
    "break_glass.text": ("text", False),
    "break_glass.requested_by": ("name", False),
}
#: What a rule may ask about, beside flags, credentials, evidence and consent.
ASKABLE_FACTS = frozenset(FACT_TYPES) - {
    "at", "reader.citizenship", "reader.id", "reader.employer.id", "origin.hospital", "object.study",
}  # fmt: skip

CREDENTIAL_COMMON = {
    "status": CREDENTIAL_STATUSES,
    "issued": "instant",
    "expires": "instant",
    "psv_at": "instant",
    "psv_method": "text",
    "id": "name",
}
#: Two credentials equal in these speak of the same thing, and may not contradict each other.
CREDENTIAL_SUBJECT = ("jurisdiction", "value", "hospital", "modalities", "territory", "register")
#: kind -> (its attributes, those of its own that it cannot do without).
CREDENTIAL_TYPES: Mapping[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
    # The number is the issuer's, for whoever checks it again; no rule asks for it.
    "LICENCE": ({**CREDENTIAL_COMMON, "jurisdiction": "code", "number": "name"}, ("jurisdiction",)),
    "SPECIALTY": ({**CREDENTIAL_COMMON, "value": "name"}, ("value",)),
    "PRIVILEGE": (
        {**CREDENTIAL_COMMON, "hospital": "name", "modalities": "names", "by_proxy": "bool"},
        ("hospital", "modalities", "by_proxy"),
    ),
    "COVER": ({**CREDENTIAL_COMMON, "territory": "names"}, ("territory",)),
    "REGISTRATION": ({**CREDENTIAL_COMMON, "register": "name", "value": "name", "jurisdiction": "code"}, ("register",)),
    "BOARD": ({**CREDENTIAL_COMMON, "value": "name"}, ("value",)),
    "EXCLUSION_CHECK": ({**CREDENTIAL_COMMON, "register": "name"}, ("register",)),
}
EVIDENCE_TYPES: Mapping[str, Any] = {
    "id": "name", "type": "name", "parties": "names", "issued": "instant", "expires": "instant", "verified_by": "name", "sha256": "name",
}  # fmt: skip
EVIDENCE_REQUIRED = ("id", "type", "parties", "issued", "expires", "verified_by")
