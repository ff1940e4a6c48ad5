"""The studio: everything that tsuika can do, in a browser on this machine.

A front end beside the command line, above `tsuika.api`, with no logic of its own. The web process imports no torch: every
piece of work is a process of its own that runs the command line (`jobs`), and what it does is read from files.
"""
