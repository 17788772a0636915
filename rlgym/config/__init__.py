"""How a config is composed and checked. What a person chooses is in conf/."""
