"""Running one job on several devices."""
