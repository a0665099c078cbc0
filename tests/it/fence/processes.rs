//! What only real processes can show.
