"""Every transition of a workitem that PS3.4 Table CC.1.1-2 lists."""

from __future__ import annotations

import pytest

from crypto.errors import Conflict
from tests.postgres_server import postgres_server, postgres_url  # noqa: F401 (fixtures)
from worklist.procedure_step import TRANSITION_TABLE, State, require_transition

#: N-ACTION rows of the table that Readgate has (requests to cancel somebody else's step are none of its acts): requested state, whether
#: the request shows the right Transaction UID, and the cell under SCHEDULED, IN PROGRESS, COMPLETED, CANCELED.
_TABLE = """
IN PROGRESS | with    | to   | C302 | C300 | C300
IN PROGRESS | without | C301 | C301 | C301 | C301
SCHEDULED   | with    | C303 | C303 | C303 | C303
SCHEDULED   | without | C303 | C303 | C303 | C303
COMPLETED   | with    | C310 | to   | B306 | C300
COMPLETED   | without | C301 | C301 | C301 | C301
CANCELED    | with    | C310 | to   | C300 | B304
CANCELED    | without | C301 | C301 | C301 | C301
"""


_COLUMNS = ("SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED")


def _cells() -> list[tuple[str, str, bool, str]]:
    cells = []
    for line in _TABLE.strip().splitlines():
        requested, shown, *row = (part.strip() for part in line.split("|"))
        cells += [(present, requested, shown == "with", cell) for present, cell in zip(_COLUMNS, row, strict=True)]
    return cells


@pytest.mark.parametrize(
    ("present", "requested", "is_right", "cell"), _cells(), ids=[f"{p}-to-{r}-{'right' if i else 'wrong'}-uid" for p, r, i, _ in _cells()]
)
def test_transition_is_that_of_table_cc_1_1_2(present: str, requested: str, is_right: bool, cell: str) -> None:
    transition = TRANSITION_TABLE[State(present), State(requested), is_right]
    assert transition.is_allowed == (cell == "to")
    assert transition.status == (0 if cell == "to" else int(cell, 16))
    if cell == "to":
        require_transition(State(present), State(requested), is_transaction_uid_right=is_right)
    else:
        with pytest.raises(Conflict) as refused:
            require_transition(State(present), State(requested), is_transaction_uid_right=is_right)
        assert refused.value.reason_code == transition.reason


def test_table_has_no_other_cells() -> None:
    assert len(TRANSITION_TABLE) == len(_cells()) == 32
