"""Screening archives: find series, score them resumably on one machine or a cluster, and report."""
