"""Words an operator types that decisions will read: the same closed lists and forms as the facts document, checked before they are stored.

A word that the engine does not know would make every later decision on it fail.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any

from compliance.facts_vocabulary import CREDENTIAL_TYPES, FACT_TYPES, FLAGS, REQUIRE_REGISTER
from compliance.jurisdiction import CODE
from crypto.errors import BadInput

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
#: As compliance/facts_schema.py reads names.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/ @+-]{0,127}")


def code(what: str, value: str) -> str:
    """An ISO 3166-1 or -2 code. Raises: BadInput."""
    if not CODE.match(value):
        raise BadInput(f"{what}: {value} is no ISO 3166 code such as IE or US-TX")
    return value


def identifier(what: str, value: str) -> str:
    """The id of a hospital, person, firm or document. Raises: BadInput."""
    if not _ID.fullmatch(value):
        raise BadInput(f"{what}: {value} is no id; use up to 64 letters, digits and - _ . :")
    return value


def name(what: str, value: str) -> str:
    """A short name as facts may hold it. Raises: BadInput."""
    if not _NAME.fullmatch(value):
        raise BadInput(f"{what}: {value} is no short name; use up to 128 letters, digits, blanks and - _ . : / @ +")
    return value


def word(what: str, value: str, allowed: Iterable[str]) -> str:
    """One of a closed list. Raises: BadInput."""
    listed = sorted(allowed)
    if value not in listed:
        raise BadInput(f"{what}: {value} is none of {', '.join(listed)}")
    return value


def fact(what: str, fact_name: str, value: str) -> str:
    """A value of the closed list of the fact of that name. Raises: BadInput."""
    return word(what, value, FACT_TYPES[fact_name][0])


def flags(values: Iterable[str]) -> list[str]:
    """Flags that rules may ask for. Raises: BadInput."""
    return [value if value.startswith(REQUIRE_REGISTER) else word("--flag", value, FLAGS) for value in values]


def network(cidr: str) -> str:
    """An IP network. Raises: BadInput."""
    try:
        return str(ipaddress.ip_network(cidr))
    except ValueError:
        raise BadInput(f"{cidr} is no network; write 192.0.2.0/24") from None


def credential_claim(kind: str, pairs: Iterable[str]) -> dict[str, Any]:
    """NAME=VALUE pairs as the claim of a credential of `kind`, in the words of the facts document. Raises: BadInput."""
    attributes, required = CREDENTIAL_TYPES[word("--kind", kind, CREDENTIAL_TYPES)]
    claim: dict[str, Any] = {}
    for pair in pairs:
        attribute, separator, value = pair.partition("=")
        if not separator or attribute not in attributes:
            own = sorted(attributes.keys() - {"status", "issued", "expires", "psv_at", "psv_method", "id"})
            raise BadInput(f"--claim {pair}: a {kind} says {', '.join(f'{one}=...' for one in own)}")
        form, what = attributes[attribute], f"--claim {attribute}"
        if form == "code":
            claim[attribute] = code(what, value)
        elif form == "names":
            claim[attribute] = [name(what, one) for one in value.split(",")]
        elif form == "bool":
            claim[attribute] = word(what, value, ("true", "false")) == "true"
        else:
            claim[attribute] = name(what, value)
    if kind == "PRIVILEGE":
        claim.setdefault("by_proxy", False)
    if missing := [one for one in required if one not in claim]:
        raise BadInput(f"a {kind} needs {' '.join(f'--claim {one}=...' for one in missing)}")
    return claim
