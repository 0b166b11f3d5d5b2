#!/usr/bin/env python3
"""Every window of `tidewatch bench engine --check DIR`, computed a second time by DuckDB.

usage: duckdb_check.py DIR [--hop]

DIR has events.csv (site, metric, device, time in microseconds, value) and windows.csv (tier, site, metric,
start, count, min, max, sum in units of 2^-48, distinct devices). Windows are 10 s long; with --hop 60 s, one
every 10 s. Tiers "hour" and "day" are the same over hours and days (UTC). Nothing may be missing, nothing
may be too much, and every number must be the same to the last bit: sums are those that DESIGN.md promises,
each value rounded once to a multiple of 2^-48, halves away from zero, then added as whole numbers.

Prints the number of events, windows and differences, and the first differences. Exit codes: 0 all equal,
1 differences, 2 wrong usage. Needs the PyPI package duckdb.
"""

import argparse
import os
import sys

import duckdb

SECOND = 1_000_000
PANE = 10 * SECOND
HOUR = 3600 * SECOND
DAY = 24 * HOUR
SHOWN = 10

SUMMARY = """
    count(*)::HUGEINT AS count, min(value) AS min, max(value) AS max,
    sum(round(value * 281474976710656)::HUGEINT)::HUGEINT AS sum,
    count(DISTINCT device)::HUGEINT AS distinct_devices
"""


def expected(tier, length, hop):
    """SQL of the windows of a length, one every hop."""
    return f"""
        SELECT '{tier}' AS tier, site, metric, start, {SUMMARY}
        FROM (
            SELECT *, time - time % {hop} - back * {hop} AS start
            FROM events, range({length // hop}) AS pane(back)
        )
        GROUP BY site, metric, start
    """


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    options.add_argument("dir")
    options.add_argument("--hop", action="store_true")
    options = options.parse_args()

    db = duckdb.connect()
    db.execute("SET preserve_insertion_order = false")
    db.execute("SET temp_directory = ?", [os.path.join(options.dir, "duckdb")])
    db.execute(
        """CREATE TABLE events AS SELECT * FROM read_csv(?, header = true, columns = {
            'site': 'VARCHAR', 'metric': 'VARCHAR', 'device': 'UINTEGER', 'time': 'BIGINT',
            'value': 'DOUBLE'})""",
        [os.path.join(options.dir, "events.csv")],
    )
    db.execute(
        """CREATE TABLE got AS SELECT * FROM read_csv(?, header = true, columns = {
            'tier': 'VARCHAR', 'site': 'VARCHAR', 'metric': 'VARCHAR', 'start': 'BIGINT',
            'count': 'HUGEINT', 'min': 'DOUBLE', 'max': 'DOUBLE', 'sum': 'HUGEINT',
            'distinct_devices': 'HUGEINT'})""",
        [os.path.join(options.dir, "windows.csv")],
    )
    window = 6 * PANE if options.hop else PANE
    tiers = [("window", window, PANE), ("hour", HOUR, HOUR), ("day", DAY, DAY)]
    for number, tier in enumerate(tiers):
        into = "INSERT INTO want" if number else "CREATE TABLE want AS"
        db.execute(f"{into} {expected(*tier)}")

    numbers = ["count", "min", "max", "sum", "distinct_devices"]
    same = " AND ".join(f"got.{n} IS NOT DISTINCT FROM want.{n}" for n in numbers)
    db.execute(
        f"""CREATE TABLE differences AS
            SELECT coalesce(got.tier, want.tier) AS tier, coalesce(got.site, want.site) AS site,
                coalesce(got.metric, want.metric) AS metric, coalesce(got.start, want.start) AS start,
                {", ".join(f"got.{n} AS got_{n}, want.{n} AS want_{n}" for n in numbers)}
            FROM got FULL JOIN want
                ON got.tier = want.tier AND got.site = want.site AND got.metric = want.metric
                AND got.start = want.start
            WHERE NOT coalesce({same}, false)"""
    )
    # A key that is there twice would hide behind the join.
    twice = "SELECT count(*) FROM (SELECT 1 FROM got GROUP BY tier, site, metric, start HAVING count(*) > 1)"
    (twice,) = db.execute(twice).fetchone()
    (events,) = db.execute("SELECT count(*) FROM events").fetchone()
    counts = "SELECT tier, count(*), sum(count) FROM want GROUP BY tier ORDER BY tier DESC"
    for tier, windows, counted in db.execute(counts).fetchall():
        print(f"{tier}: {windows} expected, {counted} events in them")
    (differences,) = db.execute("SELECT count(*) FROM differences").fetchone()
    differences += twice
    (windows,) = db.execute("SELECT count(*) FROM want").fetchone()
    for row in db.execute(f"SELECT * FROM differences ORDER BY ALL LIMIT {SHOWN}").fetchall():
        print(f"different: {row}")
    print(f"events={events} windows={windows} differences={differences}")
    # No events, or none that were compared, proves nothing.
    return 0 if differences == 0 and windows > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
