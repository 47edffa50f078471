"""Times queries in DuckDB on Parquet files: the bench's comparison.

Arguments: the files (a glob), how often to run each query, and a JSON object of name to query over the
table `messages`. Prints a JSON object of name to median milliseconds.
"""

import json
import statistics
import sys
import time

import duckdb


def median_ms(connection, query, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        connection.execute(query).fetchall()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def main():
    files, repeats, queries = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    connection = duckdb.connect()
    quoted = files.replace("'", "''")
    connection.execute(f"CREATE VIEW messages AS SELECT * FROM read_parquet('{quoted}')")
    print(json.dumps({name: median_ms(connection, query, repeats) for name, query in queries.items()}))


main()
