"""Who answers: back ends that turn examples into completions."""
