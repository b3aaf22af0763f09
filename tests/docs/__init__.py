"""What README and docs/ say, held against the code: links, commands, names, messages, and blocks that are run."""
