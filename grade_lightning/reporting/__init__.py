"""From run folders to tables: reads the run folder's formats and nothing else."""
