"""What several files of tests use: made-up data, kinds run in this process, what is demanded of messages."""
