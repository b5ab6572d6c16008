"""The page at `/`: the pool, its day and the latest grants. Plain HTML, nothing to run."""

from __future__ import annotations

from html import escape
from typing import Any

from sqlalchemy import text

from freetier import PoolStatus
from freetier.values import from_us

from .service import Service

# Nobody is named: who asks a community for help is nobody else's business.
_LATEST = text(
    "SELECT at_us, kind, tier, price_sats, absorb_sats FROM freetier_journal"
    " WHERE pool = 'main' AND kind IN ('reserve', 'grant') ORDER BY seq DESC LIMIT 10"
)
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ccc; }
.sats { text-align: right; font-variant-numeric: tabular-nums; }
"""


async def rendered(service: Service) -> str:
    """The page as it is now."""
    async with service.store.reading() as books:
        pool = await books.ledger.pool_status()
        latest = (await books.connection.execute(_LATEST)).mappings().all()
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Paid agent: the pool</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>The generosity pool</h1>
<p>This service sells small text jobs for sats. Known callers get what the pool can pay for.</p>
<table id="pool">
<caption>The pool at {escape(pool.as_of.strftime("%Y-%m-%d %H:%M"))} UTC</caption>
<tbody>
{_pool_rows(pool)}
</tbody>
</table>
<h2>Budgets a day</h2>
<table id="budgets">
<thead><tr><th scope="col">tier</th><th scope="col" class="sats">sats</th></tr></thead>
<tbody>
{_rows((tier, sats) for tier, sats in pool.budgets.items())}
</tbody>
</table>
<h2>Latest grants</h2>
<table id="grants">
<thead><tr><th scope="col">time (UTC)</th><th scope="col">tier</th>
<th scope="col" class="sats">price</th><th scope="col" class="sats">from the pool</th></tr></thead>
<tbody>
{_rows(_grant(row) for row in latest)}
</tbody>
</table>
{"" if latest else "<p>None yet.</p>"}
<p><a href="/openapi.json">The API</a>, as an OpenAPI document.</p>
</body>
</html>
"""


def _pool_rows(pool: PoolStatus) -> str:
    return _rows(
        (
            ("balance", pool.balance_sats),
            ("of it promised", pool.reserved_sats),
            ("available", pool.available_sats),
            ("absorbed today", pool.absorbed_today_sats),
            ("asked for today, and not given", pool.gated_today_sats),
        )
    )


def _grant(row: Any) -> tuple[object, ...]:
    at = from_us(row["at_us"]).strftime("%Y-%m-%d %H:%M:%S")
    return at, row["tier"], row["price_sats"], row["absorb_sats"]


def _rows(rows: Any) -> str:
    return "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f'<td class="sats">{value:,}</td>'
    return f"<td>{escape(str(value))}</td>"
