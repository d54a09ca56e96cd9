//! The scenarios: one test for each, named by its number.

mod harness;
