"""What a user does with a trained model, from the shell: embed texts, search them, explain a similarity."""
