"""How far each audit repository has got.

Revision: 0002, after: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
import sqlmodel
from alembic import op

import compliance.database

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_sink",
        sa.Column("name", sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
        sa.Column("next_index", sa.BigInteger(), nullable=False),
        sa.Column("sent_at", compliance.database.UtcDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_audit_sink")),
    )


def downgrade() -> None:
    op.drop_table("audit_sink")
