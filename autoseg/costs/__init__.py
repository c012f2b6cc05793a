"""What a network costs, counted from its description: operations, multiply-accumulates, memory; torch is not needed."""
