"""What the networks mean. They are made of the steps of blocks, and of blocks: the tape gives their gradients."""
