"""Programs and job files for many hosts."""
