//! The command line as a user meets it: every command of the README's section on rules is run as
//! printed, and what `check`, `psk`, `password` and `token` say of bad input.

mod check;
mod folder;
mod readme;
mod tools;
