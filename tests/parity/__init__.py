"""What two backends compute of the same inputs: modules of cases, and the other backend's process."""
