-- Makes the lake itself readable in Redshift, by Redshift Spectrum, through the Glue Data Catalog.
-- A template: aws/redshift.py fills in the names in braces from dl.cfg.

CREATE EXTERNAL SCHEMA IF NOT EXISTS ${external_schema}
FROM DATA CATALOG DATABASE '${catalog}'
IAM_ROLE ${iam_role};
