"""Administration: for administrators everything, for leads their groups' work, else nothing."""

from __future__ import annotations

from datetime import date, datetime, timezone

import pytest

from lib.auth import OWNER
from lib.errors import NotFound, Refused
from lib.model import AnnouncementKind, EndReason, RunState, SessionState
from lib.store.changes import RunChange
from tests.pages.apptest_components import labels, press, press_row, rows
from tests.pages.sample_portal import FAR, HOSTILE, all_html
from ui.audit_filter import AuditFilter, parse


@pytest.fixture
def people(site):
    return {who: site.person(who) for who in ("administrator", "lead", "user", "other")}


def first(found):
    return [cells[0].partition(" | ")[0] for cells, _ in found or []]


def said(app):
    return " ".join(m.value for m in app.markdown)


# --- who may come ---------------------------------------------------------------------------


@pytest.mark.parametrize(("who", "title"), [("administrator", "Administration"), ("lead", "Group")])
def test_it_is_called_by_what_it_is_for(open_page, people, who, title):
    app = open_page("explore", people[who])
    found = {page["url_pathname"]: page["page_name"] for page in app._registered_pages.values()}
    assert found["administration"] == title
    assert found["account"] == "Account"


@pytest.mark.parametrize("part", ["work", "people", "announcements", "audit"])
@pytest.mark.parametrize("who", ["user", "other"])
def test_anybody_else_reads_a_sentence_and_nothing_more(open_page, site, people, who, part):
    site.add_session(["LC08_A"], SessionState.QUEUED, owner=people["user"], title="SECRET")
    app = open_page("administration", people[who], part=part)
    assert "This page is for leads of groups and administrators." in all_html(app)
    assert not app.button
    shown = [e.proto.id.split("-", 2)[2] for e in app.get("bidi_component")]
    assert shown == ["frame", "sign-in-watch", "live-announcements"]
    assert "SECRET" not in all_html(app)


@pytest.mark.parametrize("part", ["work", "people", "announcements", "audit"])
def test_a_lead_sees_the_work_of_their_group_alone(open_page, site, people, part):
    site.add_session(["LC08_A"], SessionState.QUEUED, owner=people["user"], title="in the group")
    site.add_session(["LC08_A"], SessionState.QUEUED, owner=people["other"], title="outside")
    app = open_page("administration", people["lead"], part=part)
    assert first(rows(app, "admin-live")) == ["in the group"]
    assert all(rows(app, f"admin-{name}") is None for name in ("people", "announcements", "audit"))
    assert not app.get("button_group")
    assert "Group" in all_html(app)


def test_who_loses_the_role_loses_the_page(open_page, site, people):
    app = open_page("administration", people["administrator"])
    assert "Nothing runs and nothing waits" in all_html(app)
    site.asking = site.person("administrator", claims={})
    app.run()
    assert "This page is for leads" in all_html(app)


# --- work -----------------------------------------------------------------------------------


def test_everybodys_work_with_owner_cluster_module_state(open_page, site, people):
    user, other = people["user"], people["other"]
    site.add_session(["LC08_A"], SessionState.QUEUED, owner=user, reason="3 jobs are before it.")
    site.add_run(["LC08_A", "LC08_B"], RunState.RUNNING, owner=other, cluster=FAR, title="mine")
    site.add_session(
        ["LC08_A"], SessionState.ENDED, owner=user, end_reason=EndReason.STOPPED, title="past"
    )
    app = open_page("administration", people["administrator"])
    live = rows(app, "admin-live")
    assert sorted(cells[1] for cells, _ in live) == ["Sam Other", "Uma User"]
    run = next(cells for cells, _ in live if cells[1] == "Sam Other")
    assert run[:5] == ["mine | Run, 2 scenes", "Sam Other", "Far cluster", "Active fire", "Running"]
    notebook = next(cells for cells, _ in live if cells[1] == "Uma User")
    assert notebook[4] == "3 jobs are before it. | Queued"
    (past,) = rows(app, "admin-ended")
    assert past[0][0] == "past | Notebook, 1 scene"
    assert past[0][4] == "Ended: stopped"
    assert past[1] == []


def test_nobodys_notebook_is_opened_from_here(open_page, site, people):
    site.add_session(["LC08_A"], SessionState.READY, owner=people["user"])
    app = open_page("administration", people["administrator"])
    assert not app.get("link_button")
    assert "/open/" not in str(app.main)
    assert "/open/" not in str([e.proto for e in app.get("bidi_component")])


@pytest.mark.parametrize("who", ["administrator", "lead"])
def test_work_is_stopped_after_a_question(open_page, site, people, who):
    run = site.add_run(["LC08_A"], RunState.RUNNING, owner=people["user"], title=HOSTILE)
    app = open_page("administration", people[who])
    press_row(app, "admin-live", run.id, "stop")
    assert "Uma User" in said(app)
    assert "\\<img" in said(app)
    press(app, "Cancel")
    assert not site.store.work.run(run.id).stopping
    assert "Stop now" not in labels(app)
    press_row(app, "admin-live", run.id, "stop")
    press(app, "Stop now")
    assert site.store.work.run(run.id).stopping
    assert "It is being stopped." in all_html(app)
    ((cells, actions),) = rows(app, "admin-live")
    assert cells[4] == "Stopping"
    assert actions == []
    (line,) = [e for e in site.store.audit.latest(10) if e.action == "stop"]
    assert (line.user, line.object, line.result) == (people[who].id, run.id, "ok")


def test_a_lead_cannot_stop_what_is_not_of_their_group(open_page, site, people):
    other = site.add_run(["LC08_A"], RunState.RUNNING, owner=people["other"])
    mine = site.add_run(["LC08_A"], RunState.RUNNING, owner=people["user"])
    app = open_page("administration", people["lead"])
    press_row(app, "admin-live", other.id, "stop")
    assert "Stop now" not in labels(app)
    press_row(app, "admin-live", mine.id, "open")
    assert "Stop now" not in labels(app)
    with pytest.raises(NotFound):
        site.portal.stop(people["lead"], other.id)


def test_what_ended_meanwhile_is_not_asked_about(open_page, site, people):
    run = site.add_run(["LC08_A"], RunState.RUNNING, owner=people["user"])
    app = open_page("administration", people["administrator"])
    site.store.work.update_run(run.id, RunChange(state=RunState.DONE))
    press_row(app, "admin-live", run.id, "stop")
    assert "Stop now" not in labels(app)


# --- people ---------------------------------------------------------------------------------


def test_people_with_role_groups_and_sign_ins(open_page, site, people):
    site.person("user")
    found = rows(
        open_page("administration", people["administrator"], part="people"), "admin-people"
    )
    by_name = {cells[0].partition(" | ")[0]: (cells, actions) for cells, actions in found}
    cells, actions = by_name["Uma User"]
    assert cells[1:5] == ["user", "Forest fires", "campus", "uma@campus.example"]
    assert cells[6] == "in 2 browsers"
    assert actions == ["sign-out", "block"]
    assert by_name["Leo Lead"][0][1] == "group lead"
    assert by_name["Ada Admin"][1] == ["sign-out"], "nobody blocks themself"
    assert by_name[OWNER.name][1] == [], "nobody blocks the owner"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("UMA", ["Uma User"]),
        ("sam@campus", ["Sam Other"]),
        ("campus", ["Ada Admin", "Leo Lead", "Sam Other", "Uma User"]),
        ("nobody at all", []),
    ],
)
def test_people_are_searched_and_the_address_says_so(open_page, people, text, names):
    app = open_page("administration", people["administrator"], part="people", text=text)
    assert first(rows(app, "admin-people")) == names
    assert app.text_input(key="people-text").value == text
    assert app.query_params["text"] == text


def test_somebody_is_signed_out_everywhere(open_page, site, people):
    who = people["user"]
    app = open_page("administration", people["administrator"], part="people")
    press_row(app, "admin-people", who.id, "sign-out")
    assert "Uma User" in said(app)
    press(app, "Sign out everywhere")
    assert not site.auth.logins.of(who.id)
    assert "Signed out everywhere." in all_html(app)


def test_somebody_is_blocked_and_let_in_again(open_page, site, people):
    who = people["user"]
    app = open_page("administration", people["administrator"], part="people")
    press_row(app, "admin-people", who.id, "block")
    press(app, "Block")
    with pytest.raises(Refused):
        site.person("user")
    cells, actions = next(r for r in rows(app, "admin-people") if r[0][0].startswith("Uma User"))
    assert cells[0].endswith("blocked")
    assert cells[6] == "no"
    assert actions == ["unblock"]
    press_row(app, "admin-people", who.id, "unblock")
    press(app, "Unblock")
    assert site.person("user").id == who.id


def test_hostile_people_stay_text(open_page, site, people):
    bad = site.person("bad", name=HOSTILE, claims={"groups": ["fires"], "email": HOSTILE})
    app = open_page("administration", people["administrator"], part="people")
    cells, _ = next(r for r in rows(app, "admin-people") if HOSTILE in r[0][0])
    assert cells[4] == HOSTILE
    press_row(app, "admin-people", bad.id, "block")
    assert "<img" not in all_html(app)
    assert "\\<img" in said(app)


# --- announcements --------------------------------------------------------------------------


def test_an_announcement_is_written_seen_by_everybody_and_ended(open_page, site, people):
    app = open_page("administration", people["administrator"], part="announcements")
    app.text_area(key="announcement-text").input(f"Rest on Friday {HOSTILE}")
    app.selectbox(key="announcement-kind").select(AnnouncementKind.WARNING)
    app.selectbox(key="announcement-lasts").select("4 hours")
    press(app, "Announce")
    (announcement,) = site.store.announcements.current()
    assert announcement.kind is AnnouncementKind.WARNING
    assert round((announcement.until - announcement.since).total_seconds()) == 4 * 3600
    assert app.text_area(key="announcement-text").value == ""
    assert first(rows(app, "admin-announcements")) == [announcement.text]

    seen = open_page("explore", people["user"])
    assert 'role="status"><b>Important</b> Rest on Friday &lt;img' in all_html(seen)
    assert "<img src=x" not in all_html(seen)
    press(seen, "Dismiss")
    assert "Rest on Friday" not in all_html(seen)
    seen.run()
    assert "Rest on Friday" not in all_html(seen)

    site.asking = people["administrator"]
    press_row(app, "admin-announcements", str(announcement.id), "end")
    press(app, "End it")
    assert not site.store.announcements.current()
    assert "Nothing is announced" in all_html(app)


def test_an_empty_announcement_is_refused_with_a_sentence(open_page, site, people):
    app = open_page("administration", people["administrator"], part="announcements")
    press(app, "Announce")
    assert "Write an announcement" in all_html(app)
    assert not site.store.announcements.current()


# --- the audit log --------------------------------------------------------------------------


def fill(site, n=130):
    for i in range(n):
        site.store.audit.write("u-x", "many", f"thing-{i:03}")


def test_the_log_is_paged(open_page, site, people):
    fill(site)
    app = open_page("administration", people["administrator"], part="audit", action="many")
    found = rows(app, "admin-audit")
    assert [cells[3] for cells, _ in found] == [f"thing-{i:03}" for i in range(129, 29, -1)]
    press(app, "Older")
    assert [cells[3] for cells, _ in rows(app, "admin-audit")] == [
        f"thing-{i:03}" for i in range(29, -1, -1)
    ]
    assert "Older" not in labels(app)
    assert app.query_params["before"]
    press(app, "Newest")
    assert rows(app, "admin-audit") == found
    assert "before" not in app.query_params


def test_the_log_is_filtered_and_the_download_holds_the_same(open_page, site, people):
    site.store.audit.write(people["user"].id, "try", "a", result="refused", detail=HOSTILE)
    site.store.audit.write(people["user"].id, "try", "b")
    app = open_page("administration", people["administrator"], part="audit")
    app.text_input(key="audit-text").input("img src").run()
    (found,) = rows(app, "admin-audit")
    assert found[0][1].startswith("Uma User")
    assert found[0][3:6] == ["a", "refused", HOSTILE]
    assert "<img" not in all_html(app)
    app.text_input(key="audit-text").input("").run()
    app.selectbox(key="audit-user").select(people["user"].id).run()
    app.selectbox(key="audit-action").select("try").run()
    app.checkbox(key="audit-refused").check().run()
    assert [cells[3] for cells, _ in rows(app, "admin-audit")] == ["a"]
    (link,) = app.get("link_button")
    assert link.proto.url == (f"/api/audit.jsonl?user={people['user'].id}&action=try&refused=1")
    assert app.query_params["person"] == people["user"].id
    assert app.query_params["part"] == "audit"


def test_somebody_has_one_name_wherever_they_are_shown(open_page, site, people):
    """Two are called alike here: each is shown with what they sign in with, and always so."""
    site.person("twin", name="uma user", claims={"groups": ["fires"]})
    user = people["user"]
    called = f"Uma User ({user.id}, campus)"
    site.add_run(["LC08_A"], RunState.RUNNING, owner=user, title="mine")
    site.store.audit.write(user.id, "try", user.id)
    app = open_page("administration", people["administrator"])
    assert [cells[1] for cells, _ in rows(app, "admin-live")] == [called]
    app = open_page("administration", people["administrator"], part="people")
    assert [c[0] for c, _ in rows(app, "admin-people") if user.id in c[0]] == [
        f"{called} | {user.id}"
    ]
    app = open_page("administration", people["administrator"], part="audit", action="try")
    ((cells, _),) = rows(app, "admin-audit")
    assert cells[0].endswith(" UTC")
    assert cells[1] == cells[3] == f"{called} | {user.id}"
    assert called in app.selectbox(key="audit-user").options
    app.text_input(key="audit-text").input("Uma U").run()
    assert len(rows(app, "admin-audit")) == 1, "what is shown is found"
    assert site.portal.me(user)["name"] == called


def test_another_filter_begins_with_the_newest_line(open_page, site, people):
    fill(site)
    app = open_page("administration", people["administrator"], part="audit", action="many")
    press(app, "Older")
    app.text_input(key="audit-text").input("thing-12").run()
    assert len(rows(app, "admin-audit")) == 10
    assert "before" not in app.query_params


def test_an_address_with_nonsense_shows_the_log(open_page, people):
    app = open_page(
        "administration", people["administrator"], part="audit", before="x", person=HOSTILE,
        action=HOSTILE, **{"from": "yesterday", "to": "2019-02-30"},
    )  # fmt: skip
    assert "No line matches" in all_html(app)
    assert "<img" not in all_html(app)


def test_another_part_begins_without_what_was_chosen(open_page, people):
    app = open_page("administration", people["administrator"], part="audit", text="x", before="5")
    app.get("button_group")[0].set_value("people").run()
    assert app.query_params == {"part": "people"}
    assert len(rows(app, "admin-people")) == 5


def test_the_address_and_the_filter_are_inverse():
    chosen = AuditFilter(
        "a b", "u-1", "stop", refused=True, since=date(2026, 1, 2), until=date(2026, 1, 3), before=7
    )
    kept = {name: value for name, value in chosen.address().items() if value}
    assert parse(kept) == chosen
    query = chosen.query()
    assert query.since == datetime(2026, 1, 2, tzinfo=timezone.utc).timestamp()
    assert query.until == datetime(2026, 1, 4, tzinfo=timezone.utc).timestamp()
    assert chosen.download() == (
        "/api/audit.jsonl?text=a+b&user=u-1&action=stop&refused=1&since=2026-01-02&until=2026-01-03"
    )
    assert AuditFilter().address() == dict.fromkeys(AuditFilter().address(), "")
    assert AuditFilter().download() == "/api/audit.jsonl"
