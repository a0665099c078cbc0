//! What every store must do: async functions over `&dyn Store`, run on each backend and decorator.
