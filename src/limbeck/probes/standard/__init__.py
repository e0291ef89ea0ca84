"""Standard tasks: items of lm-eval (EleutherAI's evaluation harness), scored for limbeck's models and compared in pairs."""
