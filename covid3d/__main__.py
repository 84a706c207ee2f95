"""`python -m covid3d` is the command line."""

from covid3d.commands.cli import main

if __name__ == "__main__":
    main()
