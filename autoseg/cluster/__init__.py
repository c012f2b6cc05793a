"""Work on many machines: scripts for SLURM, manifests for Kubernetes, tasks for a Dask cluster; torch is not needed."""
