"""`python -m policy_gradients` is `policy-gradients`."""

import sys

from policy_gradients.cli.main import main

sys.exit(main())
