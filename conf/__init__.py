"""What a user can choose: one YAML file a choice, one folder a group. The first comment line of a file is its help."""
