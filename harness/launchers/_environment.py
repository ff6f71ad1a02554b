"""What a rank inherits of our environment."""

import os


def child_environment() -> dict[str, str]:
    """Ours without MLFLOW_*: ranks write files, one supervisor talks to MLflow (design §2.4)."""
    return {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
