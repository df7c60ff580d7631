"""Logins: passwords by argon2id, the second factor by TOTP (RFC 6238)."""

from __future__ import annotations

import hmac
from datetime import datetime
from functools import cache

import pyotp
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

TOTP_STEP_SECONDS = 30
#: Steps a code may be early or late: clocks differ, people type slowly (RFC 6238 section 5.2 asks for at most one).
TOTP_STEPS_TOLERATED = 1

#: RFC 9106 section 4, second recommended option, with one lane.
_HASHER = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=1)


def hash_password(password: str) -> str:
    """An argon2id hash in PHC string form, salted; store it, never the password."""
    return _HASHER.hash(password)


def verify_password(password: str, hashed: str | None) -> bool:
    """Whether `hashed` was made of `password`. None, for a login that does not exist, takes as long as a wrong password."""
    try:
        return _HASHER.verify(_nobodys_hash() if hashed is None else hashed, password) and hashed is not None
    except (Argon2Error, InvalidHashError):
        return False


def password_needs_rehash(hashed: str) -> bool:
    """Whether `hashed` was made at another cost than today's; hash anew at the next successful login."""
    return _HASHER.check_needs_rehash(hashed)


def totp_new_secret() -> str:
    """160 random bits in base32, for an authenticator app."""
    return pyotp.random_base32(32)


def totp_uri(secret: str, login: str, issuer: str = "Readgate") -> str:
    """The otpauth:// address that a QR code shows once."""
    return pyotp.TOTP(secret).provisioning_uri(name=login, issuer_name=issuer)


def totp_verify(secret: str, code: str, now: datetime, *, last_step: int | None = None) -> int | None:
    """The time step (a positive number) that `code` belongs to, or None where it is wrong.

    Store the step and give it as `last_step` next time: a code seen once is not accepted again (RFC 6238 section 5.2).
    """
    current = int(now.timestamp()) // TOTP_STEP_SECONDS
    totp = pyotp.TOTP(secret, interval=TOTP_STEP_SECONDS)
    accepted = None
    for step in range(current - TOTP_STEPS_TOLERATED, current + TOTP_STEPS_TOLERATED + 1):
        expected = totp.at(step * TOTP_STEP_SECONDS)
        if hmac.compare_digest(expected.encode(), code.strip().encode()) and (last_step is None or step > last_step):
            accepted = step
    return accepted


def totp_now(secret: str, now: datetime) -> str:
    """The code an authenticator app shows at `now`."""
    return pyotp.TOTP(secret, interval=TOTP_STEP_SECONDS).at(now)


@cache
def _nobodys_hash() -> str:
    return _HASHER.hash("the password of nobody")
