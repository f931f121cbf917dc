"""What can be set: the tables of the settings file as frozen types, and how they are read."""
