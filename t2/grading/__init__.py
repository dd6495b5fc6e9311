"""Pure graders: text in, score out. No task, no model, no global state."""
