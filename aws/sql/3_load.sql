-- Replaces all rows in one transaction: readers see the old rows until it commits.
--
-- aws/redshift.py leaves out the statements for tables that have not changed. Where only some
-- partitions have, it adds a WHERE that names them to DELETE and INSERT.

BEGIN;

-- One load waits for another here; no reader waits for either. The lock comes first, because the
-- first DELETE or INSERT fixes which rows the transaction sees.
LOCK TABLE ${schema}.load_lock;

-- DELETE, because TRUNCATE would commit at once. A table goes before those that it refers to.
DELETE FROM ${schema}.songplays;

DELETE FROM ${schema}.songs;

DELETE FROM ${schema}.time;

DELETE FROM ${schema}.users;

DELETE FROM ${schema}.artists;

-- Whoever runs this file by hand makes what is noted untrue, and the next load a whole one.
DELETE FROM ${schema}.loaded_files;

-- COPY matches the columns of a Parquet file by position, and partition columns are not in the
-- files: so only tables without partitions are copied, the others come through Spectrum. Each path
-- ends in a slash, or COPY would read every folder whose name begins like it.
COPY ${schema}.artists (
    artist_id, name, location, latitude, longitude
)
FROM '${lake}/artists/'
IAM_ROLE ${iam_role}
FORMAT AS PARQUET;

COPY ${schema}.users (
    user_id, first_name, last_name, gender, level
)
FROM '${lake}/users/'
IAM_ROLE ${iam_role}
FORMAT AS PARQUET;

INSERT INTO ${schema}.time (
    start_time, hour, day, week, month, year, weekday
)
SELECT
    start_time, hour, day, week, month, year, weekday
FROM ${external_schema}.time;

INSERT INTO ${schema}.songs (
    song_id, title, artist_id, year, duration
)
SELECT
    song_id, title, artist_id, year, duration
FROM ${external_schema}.songs;

INSERT INTO ${schema}.songplays (
    songplay_id, start_time, user_id, level, song_id, artist_id, session_id, location,
    user_agent
)
SELECT
    songplay_id, start_time, user_id, level, song_id, artist_id, session_id, location,
    user_agent
FROM ${external_schema}.songplays;

-- Divides by zero, and so fails the load, if Redshift misreads the timestamps in the files.
SELECT 1 / CASE COUNT(*) WHEN 0 THEN 1 ELSE 0 END AS start_times_read_right
FROM ${schema}.time
WHERE hour <> EXTRACT(HOUR FROM start_time) OR year <> EXTRACT(YEAR FROM start_time);

-- The rows of each table, still inside the transaction.
SELECT 'artists' AS table_name, COUNT(*) AS row_count FROM ${schema}.artists
UNION ALL
SELECT 'users' AS table_name, COUNT(*) AS row_count FROM ${schema}.users
UNION ALL
SELECT 'time' AS table_name, COUNT(*) AS row_count FROM ${schema}.time
UNION ALL
SELECT 'songs' AS table_name, COUNT(*) AS row_count FROM ${schema}.songs
UNION ALL
SELECT 'songplays' AS table_name, COUNT(*) AS row_count FROM ${schema}.songplays;

COMMIT;
