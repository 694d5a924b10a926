"""The store's tables. Times are Unix seconds (UTC); secrets are SHA-256 hashes only."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _time(name: str) -> Column[float]:
    return Column(name, Float, nullable=True)


users = Table(
    "users",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("provider", String, nullable=False, default="", server_default=""),
    Column("subject", String, nullable=False, default="", server_default=""),
    Column("claims", JSON, nullable=False, default=dict, server_default="{}"),
    _time("seen_at"),
    _time("blocked_at"),
)

sign_in_links = Table(
    "sign_in_links",
    metadata,
    Column("hash", String, primary_key=True),
    Column("user_id", String, ForeignKey("users.id"), nullable=False),
    Column("expires_at", Float, nullable=False),
    _time("used_at"),
)

logins = Table(
    "logins",
    metadata,
    Column("id", String, primary_key=True),
    Column("hash", String, nullable=False, unique=True),
    Column("user_id", String, ForeignKey("users.id"), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    _time("revoked_at"),
    Column("provider", String, nullable=False, default="", server_default=""),
    Column("client", String, nullable=False, default="", server_default=""),
    Column("browser", String, nullable=False, default="", server_default=""),
    Column("seen_at", Float, nullable=False, default=0.0, server_default="0"),
    Index("ix_logins_user_id", "user_id"),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("hash", String, nullable=False, unique=True),
    Column("user_id", String, ForeignKey("users.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    _time("revoked_at"),
    Column("scopes", String, nullable=False, server_default="launch read"),
    _time("used_at"),
    Index("ix_api_tokens_user_id", "user_id"),
)

announcements = Table(
    "announcements",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("text", Text, nullable=False),
    Column("kind", String, nullable=False),
    Column("since", Float, nullable=False),
    Column("until", Float, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("owner", String, ForeignKey("users.id"), nullable=False),
    Column("title", String, nullable=False),
    Column("cluster", String, nullable=False),
    Column("module", String, nullable=False),
    Column("module_version", String, nullable=False),
    Column("params", JSON, nullable=False),
    Column("preset", String, nullable=False),
    Column("walltime_s", Integer, nullable=False),
    Column("session", String, nullable=True),
    Column("state", String, nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("job", String, nullable=False, default=""),
    Column("objects", Integer, nullable=False, default=0),
    Column("events_have", Integer, nullable=False, default=0),
    Column("stopping", Boolean, nullable=False, default=False),
    Column("created_at", Float, nullable=False),
    _time("submitted_at"),
    _time("started_at"),
    _time("ended_at"),
    Column("note", Text, nullable=False, default="", server_default=""),
    _time("deleted_at"),
    Index("ix_runs_owner_created_at", "owner", "created_at"),
)

run_scenes = Table(
    "run_scenes",
    metadata,
    Column("run_id", String, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("scene_id", String, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("objects", Integer, nullable=False, default=0),
    Column("fraction", Float, nullable=False, default=0.0),
    Column("message", Text, nullable=False, default=""),
    Column("searched", JSON, nullable=False, default=dict),
    Column("fetched", Boolean, nullable=False, default=False),
    Column("time", Float, nullable=False),
    Column("item", JSON, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String, primary_key=True),
    Column("owner", String, ForeignKey("users.id"), nullable=False),
    Column("title", String, nullable=False),
    Column("cluster", String, nullable=False),
    Column("module", String, nullable=False),
    Column("run_id", String, ForeignKey("runs.id"), nullable=False),
    Column("preset", String, nullable=False),
    Column("walltime_s", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("end_reason", String, nullable=True),
    Column("job", String, nullable=False, default=""),
    Column("stopping", Boolean, nullable=False, default=False),
    Column("continued_from", String, nullable=True),
    Column("continued_as", String, nullable=True),
    Column("created_at", Float, nullable=False),
    _time("submitted_at"),
    _time("started_at"),
    _time("endpoint_at"),
    _time("ready_at"),
    _time("ends_at"),
    _time("ended_at"),
    _time("files_until"),
    _time("starts_at"),
    Column("note", Text, nullable=False, default="", server_default=""),
    _time("deleted_at"),
    Index("ix_sessions_owner_created_at", "owner", "created_at"),
)

detections = Table(
    "detections",
    metadata,
    Column("run_id", String, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("scene_id", String, primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("class", String, nullable=False, key="kind"),
    Column("score", Float, nullable=False),
    Column("lon", Float, nullable=False),
    Column("lat", Float, nullable=False),
    Column("geometry", JSON, nullable=False),
    Column("pixels", Integer, nullable=False),
    Column("area_m2", Float, nullable=False),
    Column("has_chip", Boolean, nullable=False, default=False),
    Column("chip_offered", Boolean, nullable=False, default=False),
    Column("flags", JSON, nullable=False),
    Column("properties", JSON, nullable=False),
    Index("ix_detections_run_id_score", "run_id", "score"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("time", Float, nullable=False),
    Column("user_id", String, nullable=False),
    Column("action", String, nullable=False),
    Column("object", String, nullable=False),
    Column("result", String, nullable=False),
    Column("detail", Text, nullable=False, default=""),
    Column("client", String, nullable=False, default=""),
    Column("via", String, nullable=False, default="", server_default=""),
    Index("ix_audit_time", "time"),
    Index("ix_audit_user_id_id", "user_id", "id"),
)
