"""Times four groupings of 10 million usage events in an in-memory DuckDB table."""

import statistics
import time

import duckdb

EVENTS = 10_000_000
RUNS = 5
THREADS = 2

# A multiplicative mix of the row number and a salt, so the data is the same
# for every DuckDB version.
MIX = """
create macro step(x) as xor(x, x >> 15) * 739982445 % 4294967296;
create macro pick(i, salt, n) as
    (step(step((i + salt * 10000019) * 2654435761 % 4294967296)) >> 8) % n;
"""

EVENTS_TABLE = f"""
create table events as select
    'key_' || lpad(pick(i, 1, 20)::text, 4, '0') as key_id,
    timestamp '2026-01-01' + to_microseconds(i * 86400000000 // {EVENTS}) as ts,
    ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'][pick(i, 2, 5) + 1] as method,
    '/v1/resource' || pick(i, 3, 40) || '/{{id}}' as endpoint,
    [200, 201, 204, 400, 404, 409, 500, 503][pick(i, 4, 8) + 1]::smallint as status,
    ['ok', 'limited', 'denied'][pick(i, 5, 3) + 1] as outcome,
    (50 + pick(i, 6, 200000))::bigint as latency_us
from range({EVENTS}) as r(i)
"""

GROUPINGS = {
    "totals by outcome": "select outcome, count(*) from events group by outcome",
    "count by method": "select method, count(*) from events group by method",
    "count by status": "select status, count(*) from events group by status",
    "top 10 endpoints": """select endpoint, count(*) as n from events
        group by endpoint order by n desc, endpoint limit 10""",
}


def median_ms(db, query):
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        db.execute(query).fetchall()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def main():
    db = duckdb.connect(":memory:", config={"threads": THREADS})
    db.execute(MIX)
    db.execute(EVENTS_TABLE)
    for column, distinct in [
        ("key_id", 20),
        ("method", 5),
        ("endpoint", 40),
        ("status", 8),
        ("outcome", 3),
    ]:
        query = f"select count(distinct {column}) from events"
        assert db.execute(query).fetchone() == (distinct,), column

    print(f"DuckDB {duckdb.__version__}, {EVENTS} events, {THREADS} threads, median of {RUNS}")
    each = {name: median_ms(db, query) for name, query in GROUPINGS.items()}
    print(f"{'sum':20}{sum(each.values()):8.1f} ms")
    for name, ms in each.items():
        print(f"{name:20}{ms:8.1f} ms")


if __name__ == "__main__":
    main()
