"""What the job ships to the cluster beside etl.py: pyspark and the standard library only."""

__version__ = "1.1.0"
