-- What Sparkify's analysts ask of the star schema, in SQL that Spark, Athena, Redshift and DuckDB
-- all run. Each query has a name, and star_schema.ipynb draws the answers.
-- Days and hours are UTC: set the engine's session to UTC. The last 14 days end with the latest play
-- in the lake, not today. Every ORDER BY ends with a key, so that all engines give the same rows.

-- name: plays_by_hour
-- At which hours of the day do people listen?
SELECT t.hour, COUNT(*) AS plays
FROM songplays AS p
JOIN time AS t ON t.start_time = p.start_time
GROUP BY t.hour
ORDER BY t.hour;

-- name: plays_by_weekday
-- On which weekdays (1 is Sunday)? A month has five of some and four of others: divide by days.
SELECT
    t.weekday,
    COUNT(DISTINCT t.year * 10000 + t.month * 100 + t.day) AS days,
    COUNT(*) AS plays
FROM songplays AS p
JOIN time AS t ON t.start_time = p.start_time
GROUP BY t.weekday
ORDER BY t.weekday;

-- name: plays_by_level
-- Who listens more, free or paid listeners? By the level at the time of each play.
WITH sessions AS (
    SELECT level, user_id, session_id, COUNT(*) AS plays
    FROM songplays
    GROUP BY level, user_id, session_id
)
SELECT
    level,
    COUNT(DISTINCT user_id) AS listeners,
    COUNT(*) AS sessions,
    SUM(plays) AS plays
FROM sessions
GROUP BY level
ORDER BY level;

-- name: plays_by_day_and_level
-- Does free listening grow, and does paid listening?
SELECT t.year, t.month, t.day, p.level, COUNT(*) AS plays
FROM songplays AS p
JOIN time AS t ON t.start_time = p.start_time
GROUP BY t.year, t.month, t.day, p.level
ORDER BY t.year, t.month, t.day, p.level;

-- name: likely_to_upgrade
-- Which free listeners played most in the last 14 days, and how much does an average paid one play?
WITH latest AS (
    SELECT MAX(start_time) AS start_time FROM songplays
),
recent AS (
    SELECT p.user_id, COUNT(*) AS plays
    FROM songplays AS p
    CROSS JOIN latest
    WHERE p.start_time > latest.start_time - INTERVAL '14' DAY
    GROUP BY p.user_id
),
paid AS (
    SELECT ROUND(AVG(1.0 * r.plays), 1) AS plays
    FROM recent AS r
    JOIN users AS u ON u.user_id = r.user_id
    WHERE u.level = 'paid'
)
SELECT u.user_id, u.first_name, u.last_name, r.plays, paid.plays AS plays_of_paid
FROM recent AS r
JOIN users AS u ON u.user_id = r.user_id
CROSS JOIN paid
WHERE u.level = 'free'
ORDER BY r.plays DESC, u.user_id
LIMIT 10;

-- name: likely_to_leave
-- Which paid listeners played less than half as much in the last 14 days as in the 14 before?
WITH latest AS (
    SELECT MAX(start_time) AS start_time FROM songplays
),
counts AS (
    SELECT
        p.user_id,
        SUM(CASE WHEN p.start_time > latest.start_time - INTERVAL '14' DAY THEN 1 ELSE 0 END)
            AS plays_now,
        SUM(CASE WHEN p.start_time > latest.start_time - INTERVAL '14' DAY THEN 0 ELSE 1 END)
            AS plays_before
    FROM songplays AS p
    CROSS JOIN latest
    WHERE p.start_time > latest.start_time - INTERVAL '28' DAY
    GROUP BY p.user_id
)
SELECT u.user_id, u.first_name, u.last_name, c.plays_before, c.plays_now
FROM counts AS c
JOIN users AS u ON u.user_id = c.user_id
WHERE u.level = 'paid' AND 2 * c.plays_now < c.plays_before
ORDER BY c.plays_before - c.plays_now DESC, u.user_id
LIMIT 10;

-- name: top_songs
-- Which songs are played most? Only plays that match a song of the catalogue count.
SELECT s.song_id, s.title, a.name AS artist, COUNT(*) AS plays
FROM songplays AS p
JOIN songs AS s ON s.song_id = p.song_id
JOIN artists AS a ON a.artist_id = s.artist_id
GROUP BY s.song_id, s.title, a.name
ORDER BY plays DESC, s.song_id
LIMIT 10;

-- name: top_artists
-- Which artists are played most, and by how many people? Only plays that match a song count.
SELECT a.artist_id, a.name AS artist, COUNT(DISTINCT p.user_id) AS listeners, COUNT(*) AS plays
FROM songplays AS p
JOIN artists AS a ON a.artist_id = p.artist_id
GROUP BY a.artist_id, a.name
ORDER BY plays DESC, a.artist_id
LIMIT 10;

-- name: sessions_by_length
-- How long are sessions, from the start of the first play to the start of the last?
WITH sessions AS (
    SELECT COUNT(*) AS plays, MAX(start_time) - MIN(start_time) AS length
    FROM songplays
    GROUP BY user_id, session_id
),
timed AS (
    SELECT
        plays,
        EXTRACT(DAY FROM length) * 1440 + EXTRACT(HOUR FROM length) * 60
            + EXTRACT(MINUTE FROM length) AS minutes
    FROM sessions
),
grouped AS (
    SELECT
        plays,
        CASE
            WHEN minutes < 15 THEN 0
            WHEN minutes < 30 THEN 15
            WHEN minutes < 60 THEN 30
            WHEN minutes < 120 THEN 60
            WHEN minutes < 240 THEN 120
            ELSE 240
        END AS from_minute
    FROM timed
)
SELECT from_minute, COUNT(*) AS sessions, SUM(plays) AS plays
FROM grouped
GROUP BY from_minute
ORDER BY from_minute;

-- name: listeners_by_area
-- Where do listeners live? Plays without a location do not count.
SELECT location, COUNT(DISTINCT user_id) AS listeners, COUNT(*) AS plays
FROM songplays
WHERE location IS NOT NULL
GROUP BY location
ORDER BY listeners DESC, plays DESC, location
LIMIT 10;
