"""The configuration: one typed model per section.

Every key has its default, its range and its description in the module of its section, and nowhere
else. A job imports only the sections that it reads, so this module imports none of them.
"""
