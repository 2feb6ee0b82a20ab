"""Listing: which runs a page holds, and how many match, by one walk along one index.

Only ids are looked for here; the rows of a page, and the long values they refer to, are read afterwards and for that page alone.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select, tuple_, union_all

from agentmesh.adapters.sql.tables import runs
from agentmesh.core.store import COUNTED, RunFilter, page_key


def page(connection: Connection, where: RunFilter) -> tuple[list[str], int]:
    """The ids of a page, newest first and one more when there is a next page; and how many match, COUNTED at most."""
    before = page_key(where.cursor)
    hits = _newest(where, COUNTED).cte("hits").prefix_with("MATERIALIZED")
    count = select(func.count()).select_from(hits)
    if before is None:
        # One walk finds both. What is kept of it is an id and a time for each.
        first = select(hits.c.id, count.scalar_subquery()).order_by(*_order(hits.c)).limit(where.limit + 1)
        rows = connection.execute(first).all()
        return [row[0] for row in rows], rows[0][1] if rows else 0
    later = _newest(where, where.limit + 1, tuple_(runs.c.created_at, runs.c.id) < tuple_(*before))
    return [row[0] for row in connection.execute(later)], connection.scalar(count) or 0


def _newest(where: RunFilter, most: int, *conditions: ColumnElement[bool]) -> Select[Any]:
    """The newest that match, in order."""
    matching = _matching(where).where(*conditions)
    if len(where.states) < 2:
        return (
            matching.where(*(runs.c.state == state.value for state in where.states))
            .order_by(*_order(runs.c))
            .limit(most)
        )
    # The index by state gives each state's runs in order, and no more of them than can be wanted.
    each = union_all(
        *(
            select(matching.where(runs.c.state == state.value).order_by(*_order(runs.c)).limit(most).subquery())
            for state in dict.fromkeys(where.states)
        )
    ).subquery()
    return select(each).order_by(*_order(each.c)).limit(most)


def _order(columns: Any) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    return columns.created_at.desc(), columns.id.desc()


def _matching(where: RunFilter) -> Select[Any]:
    query = select(runs.c.id, runs.c.created_at)
    # The tenant begins most indexes. Where another condition selects more, this keeps SQLite from walking the tenant's runs by time.
    narrow = where.parent is not None
    query = query.where((runs.c.tenant.concat("") if narrow else runs.c.tenant) == where.tenant)
    for column, wanted in (
        (runs.c.owner, where.owner), (runs.c.workflow, where.workflow), (runs.c.context_id, where.context_id),
        (runs.c.parent, where.parent),
    ):  # fmt: skip
        if wanted is not None:
            query = query.where(column == wanted)
    if where.workflows is not None:
        query = query.where(runs.c.workflow.in_(where.workflows))
    if where.roots:
        query = query.where(runs.c.parent.is_(None))
    if where.updated_after is not None:
        query = query.where(runs.c.updated_at > where.updated_after)
    return query
