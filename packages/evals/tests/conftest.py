"""Settings of hypothesis: the same examples on every machine, and no time limit on a busy one."""

from hypothesis import settings

settings.register_profile("repository", deadline=None, derandomize=True)
settings.load_profile("repository")
