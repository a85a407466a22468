"""Tables, figures and pages, one file per command, of its name."""
