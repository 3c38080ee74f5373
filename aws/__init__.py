"""What stays on the laptop: how the scripts create, use and end the cluster on AWS."""

from lake import require

require("boto3", "rich")
