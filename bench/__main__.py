"""``python -m bench`` is ``methodbench``."""

from bench.cli.main import main

if __name__ == "__main__":
    main()
