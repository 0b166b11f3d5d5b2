//! What a pane holds.
