"""`python -m klip_monai.cli`."""

from klip_monai.cli import main

main()
