"""From a job to the commands and manifests that run it; only `--execute` and `launch.local` run anything."""
