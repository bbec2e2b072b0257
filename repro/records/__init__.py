"""What a run leaves behind: settings, machine, versions, and the result file."""
