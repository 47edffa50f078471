# Reads Parquet files with DuckDB, which knows nothing of KalamDB, and prints what it found as JSON: for each file
# its columns, their types and its rows in the order of the file.
import json
import sys

import duckdb

found = []
for path in sys.argv[1:]:
    answer = duckdb.execute("SELECT * FROM read_parquet(?, file_row_number = true) ORDER BY file_row_number", [path])
    columns = [(column[0], str(column[1])) for column in answer.description if column[0] != "file_row_number"]
    rows = [list(row[: len(columns)]) for row in answer.fetchall()]
    codecs = duckdb.execute("SELECT DISTINCT compression FROM parquet_metadata(?)", [path]).fetchall()
    found.append({"columns": columns, "rows": rows, "codecs": sorted(codec for (codec,) in codecs)})
json.dump(found, sys.stdout)
