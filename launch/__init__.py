"""From a job to the commands and manifests that run it: nothing here runs anything but `--execute` and `launch.local`."""
