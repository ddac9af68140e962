"""The embedded demonstration: the parts of it. The story that they make is told by `towline.cli.demo`."""
