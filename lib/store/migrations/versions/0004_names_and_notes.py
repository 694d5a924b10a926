"""Notes of sessions and runs, and since when one is deleted"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for table in ("runs", "sessions"):
        with op.batch_alter_table(table) as batch_op:
            batch_op.add_column(sa.Column("note", sa.Text(), nullable=False, server_default=""))
            batch_op.add_column(sa.Column("deleted_at", sa.Float(), nullable=True))
