"""`python -m limbeck`, which is also what torchrun starts."""

from limbeck.cli import main

if __name__ == "__main__":
    main()
