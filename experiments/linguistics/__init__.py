"""Parts of the experiments on linguistic attention masks."""
