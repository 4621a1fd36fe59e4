"""From a package to users (layer L3, on top of the other rooms): prompts in, answers out, over HTTP or without.

``Service`` answers batches of mixed tasks with one load of the base model and knows nothing of HTTP. Around it: a waiting
line, the application, a proxy for servers that users already run. FastAPI and its like are imported here alone.
"""
