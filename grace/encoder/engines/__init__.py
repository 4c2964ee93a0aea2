"""The engines that write rationales, and the passes that embed them."""
