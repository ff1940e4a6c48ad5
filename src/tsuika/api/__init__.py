"""What tsuika can do, as functions: one module a command. `import tsuika` is the door to them (`tsuika/__init__.pyi`).

A call returns a `Run`: iterate it for events, ask it for its `result`, close it to stop (a training saves its state first).
"""
