"""`python -m shardlab`: the command line, as torchrun starts it."""

from shardlab.cli import app

if __name__ == "__main__":
    app(prog_name="shardlab")
