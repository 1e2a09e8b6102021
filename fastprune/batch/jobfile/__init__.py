"""Job files: YAML in, checked jobs out."""

from fastprune.batch.jobfile.read import JobFile, read_job_file

__all__ = ["JobFile", "read_job_file"]
