"""From runs to tables: reads what ``records`` writes and nothing else."""
