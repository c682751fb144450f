//! The command line as a user meets it: every command of the section on rules in
//! config/README.md is run as printed, and what `check`, `psk`, `password` and `token` say of bad input.

mod check;
mod demo;
mod examples;
mod exits;
mod folder;
mod manual;
mod output;
mod readme;
mod tools;

#[path = "../support/process.rs"]
mod process;
