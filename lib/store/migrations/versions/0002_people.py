"""People from providers, sign-ins with an idle time, scoped tokens, announcements; an
audit log that nobody can change"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("users") as batch_op:
        batch_op.add_column(sa.Column("provider", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("subject", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("claims", sa.JSON(), nullable=False, server_default="{}"))
        batch_op.add_column(sa.Column("seen_at", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("blocked_at", sa.Float(), nullable=True))
    with op.batch_alter_table("logins") as batch_op:
        batch_op.add_column(sa.Column("provider", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("client", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("browser", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("seen_at", sa.Float(), nullable=False, server_default="0"))
        batch_op.create_index("ix_logins_user_id", ["user_id"], unique=False)
    op.execute("UPDATE logins SET seen_at = created_at")
    with op.batch_alter_table("api_tokens") as batch_op:
        # What was made before scopes could do everything.
        batch_op.add_column(
            sa.Column("scopes", sa.String(), nullable=False, server_default="launch read")
        )
        batch_op.add_column(sa.Column("used_at", sa.Float(), nullable=True))
        batch_op.create_index("ix_api_tokens_user_id", ["user_id"], unique=False)
    op.create_table(
        "announcements",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_announcements")),
    )
    with op.batch_alter_table("audit") as batch_op:
        batch_op.add_column(sa.Column("via", sa.String(), nullable=False, server_default=""))
        batch_op.create_index("ix_audit_user_id_id", ["user_id", "id"], unique=False)
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_no_{change.lower()} BEFORE {change} ON audit "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        )
