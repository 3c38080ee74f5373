"""What stays on the laptop: how the scripts create, use and end the cluster on AWS."""
