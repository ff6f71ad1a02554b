"""torchrun, which by itself outlives its parent and leaves its ranks at work: this one dies with the supervisor."""

from harness.core import parent  # first: torch takes seconds

if __name__ == "__main__":
    parent.die_with_parent()
    from torch.distributed.run import main

    parent.die_with_parent()
    main()
