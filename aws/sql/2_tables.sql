-- Creates the tables that the lake is loaded into. Columns, keys and sort keys are those of
-- lake/tables.py: a test compares them. Redshift does not enforce keys, but its planner trusts them.
-- The job checks them before it publishes.
--
-- Distribution: songplays and time lie together by start_time, the key that joins them, so their
-- join moves no row. start_time spreads rows evenly, song_id would not: it is mostly null. The other
-- tables are small enough for a copy on every node.
--
-- A VARCHAR's length counts bytes. Queries reserve memory by it, so it is no larger than needed.

BEGIN;

CREATE SCHEMA IF NOT EXISTS ${schema};

CREATE TABLE IF NOT EXISTS ${schema}.artists (
    artist_id VARCHAR(256) NOT NULL,
    name VARCHAR(1024),
    location VARCHAR(1024),
    latitude DOUBLE PRECISION,
    longitude DOUBLE PRECISION,
    PRIMARY KEY (artist_id)
)
DISTSTYLE ALL
COMPOUND SORTKEY (artist_id);

CREATE TABLE IF NOT EXISTS ${schema}.users (
    user_id VARCHAR(256) NOT NULL,
    first_name VARCHAR(256),
    last_name VARCHAR(256),
    gender VARCHAR(16),
    level VARCHAR(16),
    PRIMARY KEY (user_id)
)
DISTSTYLE ALL
COMPOUND SORTKEY (user_id);

CREATE TABLE IF NOT EXISTS ${schema}.time (
    start_time TIMESTAMP NOT NULL,
    hour INTEGER,
    day INTEGER,
    week INTEGER,
    month INTEGER,
    year INTEGER,
    weekday INTEGER,
    PRIMARY KEY (start_time)
)
DISTSTYLE KEY DISTKEY (start_time)
COMPOUND SORTKEY (start_time);

CREATE TABLE IF NOT EXISTS ${schema}.songs (
    song_id VARCHAR(256) NOT NULL,
    title VARCHAR(1024),
    artist_id VARCHAR(256) NOT NULL,
    year INTEGER NOT NULL,
    duration DOUBLE PRECISION,
    PRIMARY KEY (song_id),
    FOREIGN KEY (artist_id) REFERENCES ${schema}.artists (artist_id)
)
DISTSTYLE ALL
COMPOUND SORTKEY (artist_id, song_id);

CREATE TABLE IF NOT EXISTS ${schema}.songplays (
    songplay_id BIGINT NOT NULL,
    start_time TIMESTAMP NOT NULL,
    user_id VARCHAR(256) NOT NULL,
    level VARCHAR(16),
    song_id VARCHAR(256),
    artist_id VARCHAR(256),
    session_id BIGINT,
    location VARCHAR(1024),
    user_agent VARCHAR(2048),
    PRIMARY KEY (songplay_id),
    FOREIGN KEY (user_id) REFERENCES ${schema}.users (user_id),
    FOREIGN KEY (start_time) REFERENCES ${schema}.time (start_time),
    FOREIGN KEY (song_id) REFERENCES ${schema}.songs (song_id),
    FOREIGN KEY (artist_id) REFERENCES ${schema}.artists (artist_id)
)
DISTSTYLE KEY DISTKEY (start_time)
COMPOUND SORTKEY (start_time, user_id, session_id);

CREATE TABLE IF NOT EXISTS ${schema}.load_lock (held INTEGER);

-- From which files each partition was loaded, as fingerprints; the row * is about the table itself.
CREATE TABLE IF NOT EXISTS ${schema}.loaded_files (
    table_name VARCHAR(64) NOT NULL,
    partition_name VARCHAR(256) NOT NULL,
    fingerprint VARCHAR(64) NOT NULL,
    row_count BIGINT
);

COMMIT;
