"""One byte string for one value."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.canonical import canonical_json, digest, keyed_digest, keyed_uid, length_prefixed
from crypto.errors import BadInput

SECRET = bytes(range(32))


def test_example_of_rfc_8785_section_3_2() -> None:
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f",
        "literals": [None, True, False],
    }
    assert canonical_json(value) == (
        b'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        b'"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_keys_are_sorted_by_utf_16_code_unit() -> None:
    assert canonical_json({"\ufb33": 1, "\U0001f600": 2, "a": 3}) == '{"a":3,"\U0001f600":2,"\ufb33":1}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, {1: 2}, "\ud800", b"bytes", object()], ids=repr)
def test_what_is_not_json_is_bad_input(value: object) -> None:
    with pytest.raises(BadInput):
        canonical_json(value)


def test_digest_names_its_algorithm() -> None:
    assert digest({}) == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@settings(max_examples=100)
@given(st.text("0123456789.", min_size=1, max_size=64))
def test_keyed_uid_is_a_valid_uid_and_the_same_every_time(original: str) -> None:
    pseudonym = keyed_uid(SECRET, original)
    assert re.fullmatch(r"2\.25\.(0|[1-9][0-9]{0,38})", pseudonym)
    assert len(pseudonym) <= 64
    assert pseudonym == keyed_uid(SECRET, original + "\0") == keyed_uid(SECRET, original + " ")
    assert pseudonym != keyed_uid(bytes(32), original)


def test_keyed_uid_known_answer() -> None:
    assert keyed_uid(SECRET, "1.2.840.10008.1.1") == "2.25.290040473703033614559657415566293018021"


def test_keyed_digest_separates_its_parts() -> None:
    assert keyed_digest(SECRET, "ab", "c") != keyed_digest(SECRET, "a", "bc")
    assert keyed_digest(SECRET, "ab") != keyed_digest(SECRET, "ab", "")
    assert keyed_digest(SECRET, "x") == keyed_digest(SECRET, b"x")
    assert re.fullmatch("[0-9a-f]{64}", keyed_digest(SECRET))


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=5)), st.lists(st.binary(max_size=5)))
def test_length_prefixed_is_injective(one: list[bytes], other: list[bytes]) -> None:
    assert (length_prefixed(*one) == length_prefixed(*other)) == (one == other)


def test_short_secrets_are_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        keyed_uid(b"short", "1.2.3")
