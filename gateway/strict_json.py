"""JSON from outside, read without guessing: what two readers could understand differently is refused.

A name that stands twice in one object is refused, because the second one would silently replace the first: in a consent that could be the
exception that denies.
"""

from __future__ import annotations

import json
from typing import Any

from crypto.errors import BadInput

DOCUMENT_BYTES_MAX = 1024 * 1024


def read_json(content: bytes | str) -> Any:
    """The value that `content` (UTF-8) says.

    Raises: BadInput; nothing of the content is repeated.
    """
    if len(content) > DOCUMENT_BYTES_MAX:
        raise BadInput(f"the document is larger than {DOCUMENT_BYTES_MAX} bytes")
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
        # An escape may say half a character, which no row can hold, or NUL, which PostgreSQL refuses.
        if "\\u0000" in json.dumps(value, ensure_ascii=False).encode("utf-8").decode():
            raise BadInput("the document holds a NUL")
        return value
    except UnicodeEncodeError:
        raise BadInput("the document holds half a character") from None
    except UnicodeDecodeError:
        raise BadInput("the document is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"the document is not JSON: line {error.lineno}, column {error.colno}") from None
    except (RecursionError, ValueError):
        raise BadInput("the document is nested too deeply, or holds a number that is too long") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise BadInput("an object of the document names something twice")
    return made


def _constant(name: str) -> Any:
    raise BadInput("the document holds a number that JSON does not have")
