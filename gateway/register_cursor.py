"""How far the log has been followed for changes of the registers (register_changes.py)."""

from __future__ import annotations

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

CURSOR_PK = 1


class RegisterCursor(SQLModel, table=True):
    """One row: the number of the first entry of the log that has not been looked at for changes of the registers."""

    __tablename__ = "register_cursor"
    cursor_pk: int = Field(primary_key=True)
    next_index: int = Field(sa_type=BigInteger)
