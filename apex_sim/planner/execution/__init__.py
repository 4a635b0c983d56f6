"""Who does the planner's work?  This process, processes of this machine, or a Dask cluster, with the same results."""
