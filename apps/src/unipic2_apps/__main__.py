"""``python -m unipic2_apps`` is ``unipic2``."""

from unipic2_apps.cli import main

if __name__ == "__main__":
    main()
