"""``python -m fastprune``."""

from fastprune.cli import main

if __name__ == "__main__":
    main()
