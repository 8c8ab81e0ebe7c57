"""A detector into a folder that others read without this project: its graph, its weights, what they mean."""
